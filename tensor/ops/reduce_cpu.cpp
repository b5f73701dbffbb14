#include <cmath>
#include <cstring>
#include <limits>

#include "weft/tensor/check.h"

#include "ops/reduce_driver.h"
#include "ops/reduce_kernels.h"
#include "ops/simd.h"
#include "ops/vector_math.h"

namespace weft {
namespace reduction {
namespace {

/// Folds f(x[i]) over a block with `add`, in lanes of a fixed pattern. `map` and `add` take vectors
/// as well as scalars.
template <class T, class Map, class Add>
[[gnu::always_inline]] inline T fold(const T* x, int64_t count, T identity, Map map, Add add) {
  constexpr int64_t width = simd::kLanes<T>;
  const auto load = [x](int64_t i) {
    simd::Vec<T> value;
    std::memcpy(&value, x + i, sizeof value);
    return value;
  };
  T result = identity;
  int64_t i = 0;
  if (count >= width) {
    simd::Vec<T> lanes = simd::broadcast(identity);
    if (count >= 4 * width) {
      simd::Vec<T> others[3] = {lanes, lanes, lanes};
      for (; i + 4 * width <= count; i += 4 * width) {
        add(lanes, map(load(i)));
        for (int j = 0; j < 3; ++j) add(others[j], map(load(i + (j + 1) * width)));
      }
      add(lanes, others[0]);
      add(others[1], others[2]);
      add(lanes, others[1]);
    }
    for (; i + width <= count; i += width) add(lanes, map(load(i)));
    for (int64_t j = 0; j < width; ++j) {
      const T lane = lanes[j];
      add(result, lane);
    }
  }
  for (; i < count; ++i) add(result, map(x[i]));
  return result;
}

constexpr auto kItself = [](const auto& value) { return value; };
constexpr auto kAdd = [](auto& total, const auto& value) { total = total + value; };

// Comparisons keep a NaN once they have met one.
constexpr auto kKeepLarger = [](auto& best, const auto& value) {
  best = ((value > best) | (value != value)) ? value : best;
};
constexpr auto kKeepSmaller = [](auto& best, const auto& value) {
  best = ((value < best) | (value != value)) ? value : best;
};

template <class T>
constexpr T lowest() {
  return std::is_integral_v<T> ? std::numeric_limits<T>::lowest()
                               : -std::numeric_limits<T>::infinity();
}
template <class T>
constexpr T highest() {
  return std::is_integral_v<T> ? std::numeric_limits<T>::max() : std::numeric_limits<T>::infinity();
}

/// Sum, or mean with kMean. Integers wrap around.
template <class T, bool kMean>
struct Sum {
  using Element = T;
  using Total = std::conditional_t<std::is_integral_v<T>, uint64_t, double>;
  using Result = T;

  Total identity() const { return 0; }
  static T lane_identity() { return 0; }
  Total block(const T* x, int64_t count, int64_t /*first*/) const {
    if constexpr (std::is_integral_v<T>) {
      Total total = 0;
      for (int64_t i = 0; i < count; ++i) total += static_cast<Total>(x[i]);
      return total;
    } else {
      return fold(x, count, T(0), kItself, kAdd);
    }
  }
  static void add_rows(T* lanes, const T* const* rows, int64_t width) {
    using U = std::conditional_t<std::is_integral_v<T>, uint64_t, T>;
    const T* const a = rows[0];
    const T* const b = rows[1];
    const T* const c = rows[2];
    const T* const d = rows[3];
    for (int64_t i = 0; i < width; ++i)
      lanes[i] = T(U(lanes[i]) + ((U(a[i]) + U(b[i])) + (U(c[i]) + U(d[i]))));
  }
  Total combine(Total earlier, Total later) const { return earlier + later; }
  Result finish(Total total, int64_t count) const {
    return static_cast<Result>(kMean ? total / static_cast<Total>(count) : total);
  }
};

template <class T, bool kMax>
struct Extremum {
  using Element = T;
  using Total = T;
  using Result = T;

  static void keep(T& best, T value) {
    if constexpr (kMax) {
      kKeepLarger(best, value);
    } else {
      kKeepSmaller(best, value);
    }
  }
  T identity() const { return lane_identity(); }
  static T lane_identity() { return kMax ? lowest<T>() : highest<T>(); }
  T block(const T* x, int64_t count, int64_t /*first*/) const {
    if constexpr (kMax) {
      return fold(x, count, lowest<T>(), kItself, kKeepLarger);
    } else {
      return fold(x, count, highest<T>(), kItself, kKeepSmaller);
    }
  }
  static void add_rows(T* lanes, const T* const* rows, int64_t width) {
    const T* const a = rows[0];
    const T* const b = rows[1];
    const T* const c = rows[2];
    const T* const d = rows[3];
    for (int64_t i = 0; i < width; ++i) {
      T best = lanes[i];
      keep(best, a[i]);
      keep(best, b[i]);
      keep(best, c[i]);
      keep(best, d[i]);
      lanes[i] = best;
    }
  }
  T combine(T earlier, T later) const {
    keep(earlier, later);
    return earlier;
  }
  T finish(T total, int64_t /*count*/) const { return total; }
};

/// Counts, means and squared distances of parts combine as in Chan, Golub & LeVeque (1979).
template <class T>
struct Variance {
  using Element = T;
  struct Total {
    double count = 0;
    double mean = 0;
    double squares = 0;  // sum of squared distances from the mean
  };
  using Result = T;
  double correction;

  Total identity() const { return {}; }
  Total block(const T* x, int64_t count, int64_t /*first*/) const {
    const double n = static_cast<double>(count);
    const T center = static_cast<T>(fold(x, count, T(0), kItself, kAdd) / static_cast<T>(count));
    const T squares = fold(
        x, count, T(0), [center](const auto& v) { return (v - center) * (v - center); }, kAdd);
    const T rest = fold(
        x, count, T(0), [center](const auto& v) { return v - center; }, kAdd);
    const double shift = static_cast<double>(rest) / n;  // left by the rounding of center
    return {n, static_cast<double>(center) + shift,
            static_cast<double>(squares) - static_cast<double>(rest) * shift};
  }
  Total combine(const Total& a, const Total& b) const {
    if (a.count == 0) return b;
    const double n = a.count + b.count;
    const double distance = b.mean - a.mean;
    return {n, a.mean + distance * (b.count / n),
            a.squares + b.squares + distance * distance * (a.count * b.count / n)};
  }
  Result finish(const Total& total, int64_t /*count*/) const {
    const double n = total.count - correction;
    return static_cast<Result>(n > 0 ? total.squares / n
                                     : std::numeric_limits<double>::quiet_NaN());
  }
};

template <class T>
struct Norm {
  using Element = T;
  using Total = double;
  using Result = T;
  double p;

  bool is_max() const { return p == std::numeric_limits<double>::infinity(); }
  double identity() const { return 0; }
  // Squares are added up in double, in which no float's square overflows.
  double block(const T* x, int64_t count, int64_t /*first*/) const {
    double wide[kReduceBlock];
    const double* values;
    if constexpr (std::is_same_v<T, double>) {
      values = x;
    } else {
      for (int64_t i = 0; i < count; ++i) wide[i] = static_cast<double>(x[i]);
      values = wide;
    }
    const auto magnitude = [](const auto& v) { return v < 0 ? -v : v; };
    if (p == 2)
      return fold(
          values, count, 0.0, [](const auto& v) { return v * v; }, kAdd);
    if (p == 1) return fold(values, count, 0.0, magnitude, kAdd);
    if (is_max()) return fold(values, count, 0.0, magnitude, kKeepLarger);
    double total = 0;
    for (int64_t i = 0; i < count; ++i) total += std::pow(std::abs(values[i]), p);
    return total;
  }
  double combine(double earlier, double later) const {
    if (!is_max()) return earlier + later;
    kKeepLarger(earlier, later);
    return earlier;
  }
  Result finish(double total, int64_t /*count*/) const {
    if (p == 1 || is_max()) return static_cast<Result>(total);
    return static_cast<Result>(p == 2 ? std::sqrt(total) : std::pow(total, 1 / p));
  }
};

/// The largest element and the sum of exp(x - largest).
template <class T>
struct LogSumExp {
  using Element = T;
  struct Total {
    double largest = -std::numeric_limits<double>::infinity();
    double sum = 0;
  };
  using Result = T;

  Total identity() const { return {}; }
  Total block(const T* x, int64_t count, int64_t /*first*/) const {
    const T largest = fold(x, count, lowest<T>(), kItself, kKeepLarger);
    if (!std::isfinite(largest)) return {largest, 1};  // the result is `largest`
    T powers[kReduceBlock];
    for (int64_t i = 0; i < count; ++i) powers[i] = vexp(x[i] - largest);
    return {largest, fold(powers, count, T(0), kItself, kAdd)};
  }
  Total combine(const Total& a, const Total& b) const {
    double largest = a.largest;
    kKeepLarger(largest, b.largest);
    if (!std::isfinite(largest)) return {largest, 1};
    return {largest, a.sum * std::exp(a.largest - largest) + b.sum * std::exp(b.largest - largest)};
  }
  Result finish(const Total& total, int64_t /*count*/) const {
    return static_cast<Result>(total.largest + std::log(total.sum));
  }
};

/// any, or all with kAll.
template <class T, bool kAll>
struct Truth {
  using Element = T;
  using Total = int;  // not bool: threads write neighbours in a vector of these
  using Result = bool;

  Total identity() const { return kAll; }
  Total block(const T* x, int64_t count, int64_t /*first*/) const {
    int64_t nonzero = 0;
    for (int64_t i = 0; i < count; ++i) nonzero += x[i] != T(0);
    return kAll ? nonzero == count : nonzero > 0;
  }
  Total combine(Total earlier, Total later) const {
    return kAll ? earlier & later : earlier | later;
  }
  bool finish(Total total, int64_t /*count*/) const { return total; }
};

template <class T, bool kMax>
struct ArgExtremum {
  static constexpr int64_t kStep = 64;  // looked through at once
  using Element = T;
  struct Total {
    T value = 0;
    int64_t index = -1;
  };
  using Result = int64_t;

  Total identity() const { return {}; }
  Total block(const T* x, int64_t count, int64_t first) const {
    const T best = Extremum<T, kMax>().block(x, count, first);
    const auto find = [&](auto matches) {
      int64_t i = 0;
      for (; i + kStep <= count; i += kStep) {
        int found = 0;
        for (int64_t j = 0; j < kStep; ++j) found += matches(x[i + j]);
        if (found > 0) break;
      }
      while (!matches(x[i])) ++i;
      return first + i;
    };
    if (best != best) return {best, find([](T value) { return value != value; })};
    return {best, find([best](T value) { return value == best; })};
  }
  Total combine(const Total& earlier, const Total& later) const {
    if (earlier.index < 0) return later;
    if (later.index < 0 || earlier.value != earlier.value) return earlier;
    const bool better = kMax ? later.value > earlier.value : later.value < earlier.value;
    return better || later.value != later.value ? later : earlier;
  }
  int64_t finish(const Total& total, int64_t /*count*/) const { return total.index; }
};

/// Calls body.operator()<T>() with the type in which elements of `dtype` are reduced.
template <class Body>
void dispatch_element(DType dtype, Body&& body) {
  if (dtype == DType::f64) {
    body.template operator()<double>();
  } else if (is_floating(dtype)) {
    body.template operator()<float>();
  } else {
    body.template operator()<int64_t>();
  }
}

template <class T>
void reduce_elements(const ReduceParams& params, const Tensor& x, Tensor& out) {
  const auto run = [&](const auto& reducer) { reduce_into(reducer, x, params.mask, out); };
  switch (params.op) {
    case ReduceOp::sum:
      return run(Sum<T, false>());
    case ReduceOp::max:
      return run(Extremum<T, true>());
    case ReduceOp::min:
      return run(Extremum<T, false>());
    case ReduceOp::any:
      return run(Truth<T, false>());
    case ReduceOp::all:
      return run(Truth<T, true>());
    case ReduceOp::argmax:
      return run(ArgExtremum<T, true>());
    case ReduceOp::argmin:
      return run(ArgExtremum<T, false>());
    default:
      break;
  }
  if constexpr (std::is_floating_point_v<T>) {
    switch (params.op) {
      case ReduceOp::mean:
        return run(Sum<T, true>());
      case ReduceOp::var:
        return run(Variance<T>{params.parameter});
      case ReduceOp::norm:
        return run(Norm<T>{params.parameter});
      case ReduceOp::logsumexp:
        return run(LogSumExp<T>());
      default:
        break;
    }
  }
  throw_error<DTypeError>("{}: no reduction of {}", params.name, x);
}

}  // namespace
}  // namespace reduction

void reduce_cpu(const ReduceParams& params, const Tensor& x, Tensor& out, Stream /*stream*/) {
  reduction::dispatch_element(x.dtype(),
                              [&]<class T>() { reduction::reduce_elements<T>(params, x, out); });
}

}  // namespace weft
