#include "ops/reduce_cuda.cuh"

namespace weft {
namespace {

/// Whether `a` goes before `b`: the larger, or the smaller; NaN before numbers.
template <class A>
__device__ __forceinline__ bool beats(A a, A b, bool largest) {
  return (largest ? a > b : a < b) || (a != a && b == b);
}

template <class T>
struct Extremum {
  using A = cuda::computed_t<T>;
  using Total = A;
  using Result = T;
  bool largest;
  A first = A();

  /// Any element will do to begin with.
  __device__ void start(const T* x) { first = cuda::widen(*x); }
  __device__ Total identity() const { return first; }
  template <int kWidth>
  __device__ void take(Total& total, const A (&values)[kWidth], int64_t) const {
#pragma unroll
    for (int k = 0; k < kWidth; ++k) total = combine(total, values[k]);
  }
  __device__ Total combine(Total a, Total b) const {
    return beats(b, a, largest) ? b : a;
  }
  __device__ Result finish(Total total, int64_t) const {
    return cuda::narrow<T>(total);
  }
};

/// The first of equals.
template <class T>
struct ArgExtremum {
  using A = cuda::computed_t<T>;
  struct Total {
    int64_t index;  // -1: none
    std::conditional_t<(sizeof(A) < 4), int32_t, A> value;
  };
  using Result = int64_t;
  bool largest;

  __device__ void start(const T*) {}
  __device__ Total identity() const { return {-1, 0}; }
  /// Elements come in their order, so that of equals the one before stays.
  template <int kWidth>
  __device__ void take(Total& total, const A (&values)[kWidth], int64_t first) const {
    A best = values[0];
#pragma unroll
    for (int k = 1; k < kWidth; ++k) best = beats(values[k], best, largest) ? values[k] : best;
    if (total.index >= 0 && !beats(best, static_cast<A>(total.value), largest)) return;
    int at = 0;
#pragma unroll
    for (int k = kWidth - 1; k >= 0; --k) {
      if (values[k] == best || values[k] != values[k]) at = k;
    }
    total.index = first + at;
    total.value = best;
  }
  __device__ Total combine(const Total& a, const Total& b) const {
    if (a.index < 0) return b;
    if (b.index < 0) return a;
    if (beats(a.value, b.value, largest)) return a;
    if (beats(b.value, a.value, largest)) return b;
    return a.index < b.index ? a : b;
  }
  __device__ Result finish(const Total& total, int64_t) const {
    return total.index;
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
    run_reduction<T>(params, ArgExtremum<T>{params.op == ReduceOp::argmax}, x, out, stream);
  });
}

}  // namespace weft
