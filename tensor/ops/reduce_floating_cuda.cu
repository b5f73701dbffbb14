#include <cmath>
#include <limits>
#include <type_traits>

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
  double shift = 0;

  __device__ void start(const T* x) { shift = static_cast<double>(cuda::widen(*x)); }
  __device__ Total identity() const { return {0, 0}; }
  template <int kWidth>
  __device__ void take(Total& total, const A (&values)[kWidth], int64_t) const {
    if constexpr (sizeof(T) == 2 && kWidth > 1) {
      // What is rounded to a half type in the end is added up about the mean of these values in
      // float. Multiplied before they are added, they do not overflow.
      A mean = 0;
#pragma unroll
      for (int k = 0; k < kWidth; ++k) mean += values[k] * (A(1) / kWidth);
      A squares = 0;
#pragma unroll
      for (int k = 0; k < kWidth; ++k) squares += (values[k] - mean) * (values[k] - mean);
      const double distance = static_cast<double>(mean) - shift;
      total.sum += kWidth * distance;
      total.squares += static_cast<double>(squares) + kWidth * (distance * distance);
    } else {
#pragma unroll
      for (int k = 0; k < kWidth; ++k) {
        const double distance = static_cast<double>(values[k]) - shift;
        total.sum += distance;
        total.squares += distance * distance;
      }
    }
  }
  __device__ Total combine(const Total& a, const Total& b) const {
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
  template <int kWidth>
  __device__ void take(Total& total, const double (&values)[kWidth], int64_t) const {
    double mean = 0;  // multiplied before they are added, values do not overflow
#pragma unroll
    for (int k = 0; k < kWidth; ++k) mean += values[k] * (1.0 / kWidth);
    double squares = 0;
#pragma unroll
    for (int k = 0; k < kWidth; ++k) squares += (values[k] - mean) * (values[k] - mean);
    total = combine(total, {kWidth, mean, squares});
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

template <class T>
struct Norm {
  using A = accumulator_t<T>;
  using Total = double;
  using Result = T;
  double p;

  __device__ void start(const T*) {}
  __device__ Total identity() const { return 0; }
  // Squares are added up in double, in which no float's square overflows.
  template <int kWidth>
  __device__ void take(Total& total, const A (&values)[kWidth], int64_t) const {
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      const double value = fabs(static_cast<double>(values[k]));
      if (p == 2) {
        total += value * value;
      } else if (p == 1) {
        total += value;
      } else {
        total = isinf(p) ? combine(total, value) : total + pow(value, p);
      }
    }
  }
  __device__ Total combine(Total a, Total b) const {
    return isinf(p) ? cuda::KeepLarger()(a, b) : a + b;
  }
  __device__ Result finish(Total total, int64_t) const {
    double result = total;
    if (p == 2) {
      result = sqrt(total);
    } else if (p != 1 && !isinf(p)) {
      result = pow(total, 1 / p);
    }
    return cuda::narrow<T>(static_cast<A>(result));
  }
};

template <class T>
struct LogSumExp {
  using A = accumulator_t<T>;
  using Total = cuda::Running<T>;
  using Result = T;

  __device__ void start(const T*) {}
  __device__ Total identity() const { return {}; }
  template <int kWidth>
  __device__ void take(Total& total, const A (&values)[kWidth], int64_t) const {
    total.take(values);
  }
  __device__ Total combine(const Total& a, const Total& b) const {
    Total result;
    result.max = cuda::KeepLarger()(a.max, b.max);
    if (isfinite(result.max)) {
      result.sum = a.sum * cuda::exponential<T>(a.max - result.max) +
                   b.sum * cuda::exponential<T>(b.max - result.max);
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
      run_reduction<T>(params, Norm<T>{params.parameter}, x, out, stream);
    } else {
      run_reduction<T>(params, LogSumExp<T>(), x, out, stream);
    }
  });
}

}  // namespace weft
