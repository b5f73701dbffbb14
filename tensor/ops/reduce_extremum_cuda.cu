#include <cstring>
#include <limits>

#include "ops/reduce_cuda.cuh"

namespace weft {
namespace {

/// Elements as keys of which the largest is wanted, and keys as elements: with all bits turned, or
/// that of the sign, what is least is largest.
template <class A>
struct Keys {
  bool largest;

  __device__ __forceinline__ A operator()(A value) const {
    if constexpr (std::is_integral_v<A>) {
      return largest ? value : static_cast<A>(~value);
    } else if constexpr (sizeof(A) == 4) {
      return __uint_as_float(__float_as_uint(value) ^ (largest ? 0u : 0x80000000u));
    } else {
      return largest ? value : -value;
    }
  }
  static __device__ __forceinline__ A least() {
    if constexpr (std::is_integral_v<A>) {
      return std::numeric_limits<A>::lowest();
    } else {
      return cuda::kMinusInfinity<A>;
    }
  }
  /// The larger key; NaN before numbers.
  static __device__ __forceinline__ A larger(A a, A b) { return cuda::KeepLarger()(a, b); }
  template <class Values>
  __device__ __forceinline__ A largest_of(const Values& values) const {
    return cuda::fold<Values::kCount>([&](int n) { return (*this)(values[n]); },
                                      [](A a, A b) { return larger(a, b); });
  }
};

template <class T>
struct Extremum {
  using A = cuda::computed_t<T>;
  using Total = A;  // a key
  using Result = T;
  Keys<A> keys;

  __device__ void start(const T*) {}
  __device__ Total identity() const { return Keys<A>::least(); }
  template <class Values>
  __device__ __forceinline__ void take(Total& total, const Values& values, int64_t) const {
    total = combine(total, keys.largest_of(values));
  }
  __device__ __forceinline__ Total combine(Total a, Total b) const { return Keys<A>::larger(a, b); }
  __device__ Result finish(Total total, int64_t) const { return cuda::narrow<T>(keys(total)); }
};

/// The first of equals. Positions are of type Index.
template <class T, class Index>
struct ArgExtremum {
  using A = cuda::computed_t<T>;
  static constexpr Index kNone = std::numeric_limits<Index>::max();
  struct Total {
    Index index;
    std::conditional_t<(sizeof(A) < 4), int32_t, A> key;
  };
  using Result = int64_t;
  Keys<A> keys;

  __device__ void start(const T*) {}
  __device__ Total identity() const { return {kNone, Keys<A>::least()}; }
  /// Elements come in their order, so that of equals the one before stays. Which element it is that
  /// is the largest is asked where it beats all before, of elements that are still there.
  template <class Values>
  __device__ __forceinline__ void take(Total& total, const Values& values, int64_t first) const {
    const A best = keys.largest_of(values);
    if (total.index != kNone && !beats(best, static_cast<A>(total.key))) return;
    const A wanted = keys(best);
    int at = 0;
    if (best == best) {
#pragma unroll
      for (int n = Values::kCount - 1; n >= 0; --n) {
        if (values[n] == wanted) at = Values::offset(n);
      }
    } else {
#pragma unroll
      for (int n = Values::kCount - 1; n >= 0; --n) {
        if (values[n] != values[n]) at = Values::offset(n);
      }
    }
    total.index = static_cast<Index>(first + at);
    total.key = best;
  }
  __device__ __forceinline__ Total combine(const Total& a, const Total& b) const {
    if (beats(a.key, b.key)) return a;
    if (beats(b.key, a.key)) return b;
    return a.index < b.index ? a : b;
  }
  __device__ Result finish(const Total& total, int64_t) const {
    return total.index;
  }

 private:
  template <class Key>
  static __device__ __forceinline__ bool beats(Key a, Key b) {
    return a > b || (a != a && b == b);
  }
};

}  // namespace

void cuda::reduce_extremum_cuda(const ReduceParams& params, const Tensor& x, Tensor& out,
                                Stream stream) {
  dispatch_numeric(x.dtype(), params.name, [&]<class T>() {
    run_reduction<T>(params, Extremum<T>{params.op == ReduceOp::max}, x, out, stream);
  });
}

void cuda::reduce_arg_extremum_cuda(const ReduceParams& params, const Tensor& x, Tensor& out,
                                    Stream stream) {
  dispatch_numeric(x.dtype(), params.name, [&]<class T>() {
    const bool largest = params.op == ReduceOp::argmax;
    if constexpr (!std::is_integral_v<T> && sizeof(T) <= 4) {
      // Half the registers for positions.
      if (x.numel() < std::numeric_limits<int32_t>::max()) {
        run_reduction<T>(params, ArgExtremum<T, int32_t>{largest}, x, out, stream);
        return;
      }
      run_reduction<T, false>(params, ArgExtremum<T, int64_t>{largest}, x, out, stream);
    } else {
      run_reduction<T>(params, ArgExtremum<T, int64_t>{largest}, x, out, stream);
    }
  });
}

}  // namespace weft
