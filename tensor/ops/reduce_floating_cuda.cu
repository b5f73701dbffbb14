#include <cmath>
#include <limits>
#include <type_traits>

#include "ops/exponential_cuda.cuh"
#include "ops/reduce_cuda.cuh"

namespace weft {
namespace {

/// Sums of distances from the output's first element, and of their squares, in f64: where all
/// values lie far from zero little cancels, and what does, where that element lies far from the
/// others, leaves more than the digits of T.
template <class T>
struct Variance {
  using A = accumulator_t<T>;
  struct Total {
    double sum, squares;
  };
  using Result = T;
  double correction;
  T first = T();

  __device__ void start(const T* x) { first = *x; }
  __device__ Total identity() const { return {0, 0}; }
  template <class Values>
  __device__ __forceinline__ void take(Total& total, const Values& values, int64_t) const {
    constexpr int kCount = Values::kCount;
    const auto shift = static_cast<double>(cuda::widen(first));
    if constexpr (sizeof(T) == 2 && kCount > 1) {
      // What is rounded to a half type in the end is added up about the mean of these values in
      // float. Made smaller before they are added, neither they nor their squares overflow there
      // where the result does not.
      constexpr A kShare = A(1) / kCount;
      constexpr A kScale = 0.125;
      const A mean = cuda::fold<kCount>([&](int n) { return values[n] * kShare; }, cuda::Add());
      const A scaled = mean * kScale;
      const A squares = cuda::fold<kCount>(
          [&](int n) {
            const A distance = values[n] * kScale - scaled;
            return distance * distance;
          },
          cuda::Add());
      const double distance = static_cast<double>(mean) - shift;
      total.sum += kCount * distance;
      total.squares +=
          static_cast<double>(squares) / (kScale * kScale) + kCount * (distance * distance);
    } else {
      total.sum += cuda::fold<kCount>([&](int n) { return static_cast<double>(values[n]) - shift; },
                                      cuda::Add());
      total.squares += cuda::fold<kCount>(
          [&](int n) {
            const double distance = static_cast<double>(values[n]) - shift;
            return distance * distance;
          },
          cuda::Add());
    }
  }
  __device__ __forceinline__ Total combine(const Total& a, const Total& b) const {
    return {a.sum + b.sum, a.squares + b.squares};
  }
  __device__ Result finish(const Total& total, int64_t count) const {
    const auto n = static_cast<double>(count);
    double squares = total.squares - total.sum * (total.sum / n);
    if (squares < 0) squares = 0;  // NaN stays
    const double divisor = n - correction;
    return cuda::narrow<T>(
        static_cast<A>(divisor > 0 ? squares / divisor : std::numeric_limits<double>::quiet_NaN()));
  }
};

/// In f64 nothing wider is left to cancel in, and the first element may lie far from all others, so
/// counts, means and squared distances of parts combine as in Chan, Golub & LeVeque (1979).
struct VarianceOfDoubles {
  struct Total {
    double count, mean;
    double squares;  // sum of squared distances from the mean
  };
  using Result = double;
  double correction;

  __device__ void start(const double*) {}
  __device__ Total identity() const { return {0, 0, 0}; }
  template <class Values>
  __device__ __forceinline__ void take(Total& total, const Values& values, int64_t) const {
    constexpr int kCount = Values::kCount;
    // Multiplied before they are added, values do not overflow.
    const double mean =
        cuda::fold<kCount>([&](int n) { return values[n] * (1.0 / kCount); }, cuda::Add());
    const double squares = cuda::fold<kCount>(
        [&](int n) { return (values[n] - mean) * (values[n] - mean); }, cuda::Add());
    total = combine(total, {kCount, mean, squares});
  }
  __device__ Total combine(const Total& a, const Total& b) const {
    if (a.count == 0) return b;
    if (b.count == 0) return a;
    const double count = a.count + b.count;
    const double distance = b.mean - a.mean, share = b.count / count;
    return {count, a.mean + distance * share,
            a.squares + b.squares + distance * distance * (a.count * share)};
  }
  __device__ Result finish(const Total& total, int64_t) const {
    const double divisor = total.count - correction;
    return divisor > 0 ? total.squares / divisor : std::numeric_limits<double>::quiet_NaN();
  }
};

/// The norms of p = 1, 2 and infinity.
template <class T>
struct Norm {
  using A = accumulator_t<T>;
  using Total = double;
  using Result = T;
  double p;

  __device__ void start(const T*) {}
  __device__ Total identity() const { return 0; }
  template <class Values>
  __device__ __forceinline__ void take(Total& total, const Values& values, int64_t) const {
    constexpr int kCount = Values::kCount;
    if (p == 2) {
      total += sum_of_squares(values);
    } else if (p == 1) {
      total += static_cast<double>(
          cuda::fold<kCount>([&](int n) { return fabs(values[n]); }, cuda::Add()));
    } else {
      total = combine(total, static_cast<double>(cuda::fold<kCount>(
                                 [&](int n) { return fabs(values[n]); }, cuda::KeepLarger())));
    }
  }
  __device__ Total combine(Total a, Total b) const {
    return isinf(p) ? cuda::KeepLarger()(a, b) : a + b;
  }
  __device__ Result finish(Total total, int64_t) const {
    return cuda::narrow<T>(static_cast<A>(p == 2 ? sqrt(total) : total));
  }

 private:
  template <class Values>
  static __device__ __forceinline__ double sum_of_squares(const Values& values) {
    constexpr int kCount = Values::kCount;
    if constexpr (sizeof(T) == 2) {
      // In float where that is as good: where the sum is finite no square has overflowed, and where
      // it is not small, what squares have lost below the least float is nothing beside it.
      const A sum = cuda::fold<kCount>([&](int n) { return values[n] * values[n]; }, cuda::Add());
      if (sum > A(0x1p-100) && sum <= std::numeric_limits<A>::max()) return sum;
    }
    // No float's square overflows in double.
    return cuda::fold<kCount>(
        [&](int n) {
          const auto value = static_cast<double>(values[n]);
          return value * value;
        },
        cuda::Add());
  }
};

/// That of any other p.
template <class T>
struct PowerNorm {
  using A = accumulator_t<T>;
  using Total = double;
  using Result = T;
  double p;

  __device__ void start(const T*) {}
  __device__ Total identity() const { return 0; }
  template <class Values>
  __device__ __forceinline__ void take(Total& total, const Values& values, int64_t) const {
#pragma unroll
    for (int n = 0; n < Values::kCount; ++n) {
      total += pow(fabs(static_cast<double>(values[n])), p);
    }
  }
  __device__ Total combine(Total a, Total b) const {
    return a + b;
  }
  __device__ Result finish(Total total, int64_t) const {
    return cuda::narrow<T>(static_cast<A>(pow(total, 1 / p)));
  }
};

template <class T>
struct LogSumExp {
  using A = accumulator_t<T>;
  using Total = cuda::Running<T>;
  using Result = T;

  __device__ void start(const T*) {}
  __device__ Total identity() const { return {}; }
  template <class Values>
  __device__ __forceinline__ void take(Total& total, const Values& values, int64_t) const {
    constexpr int kCount = Values::kCount;
    const A highest = cuda::KeepLarger()(
        total.max, cuda::fold<kCount>([&](int n) { return values[n]; }, cuda::KeepLarger()));
    // Of -infinity alone e^x is zero about any finite value.
    const A shift = highest == cuda::kMinusInfinity<A> ? A(0) : highest;
    const A sum = cuda::fold<kCount>(
        [&](int n) { return cuda::quick_exponential<T>(values[n] - shift); }, cuda::Add());
    if (highest != total.max) total.sum *= cuda::quick_exponential<T>(total.max - shift);
    total.sum += sum;
    total.max = highest;
  }
  __device__ Total combine(const Total& a, const Total& b) const {
    Total result;
    result.max = cuda::KeepLarger()(a.max, b.max);
    if (isfinite(result.max)) {
      result.sum = a.sum * cuda::quick_exponential<T>(a.max - result.max) +
                   b.sum * cuda::quick_exponential<T>(b.max - result.max);
    }
    return result;
  }
  __device__ Result finish(const Total& total, int64_t) const {
    return cuda::narrow<T>(isfinite(total.max) ? total.max + log(total.sum) : total.max);
  }
};

}  // namespace

void cuda::reduce_floating_cuda(const ReduceParams& params, const Tensor& x, Tensor& out,
                                Stream stream) {
  dispatch_floating(x.dtype(), params.name, [&]<class T>() {
    if (params.op == ReduceOp::var) {
      using Reducer = std::conditional_t<std::is_same_v<T, double>, VarianceOfDoubles, Variance<T>>;
      run_reduction<T>(params, Reducer{params.parameter}, x, out, stream);
    } else if (params.op == ReduceOp::norm) {
      const double p = params.parameter;
      if (p == 1 || p == 2 || std::isinf(p)) {
        run_reduction<T>(params, Norm<T>{p}, x, out, stream);
      } else {
        run_reduction<T, false>(params, PowerNorm<T>{p}, x, out, stream);
      }
    } else {
      run_reduction<T>(params, LogSumExp<T>(), x, out, stream);
    }
  });
}

}  // namespace weft
