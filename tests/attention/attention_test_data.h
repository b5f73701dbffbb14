#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "weft/tensor/error.h"
#include "weft/tensor/tensor.h"

#include "message_of.h"

namespace weft::attention::testing {

using test::message_of;

/// Normal values, the same for the same seed.
inline Tensor random_tensor(const Shape& shape, DType dtype, uint64_t seed, double deviation = 1) {
  std::mt19937_64 engine(seed);
  std::normal_distribution<double> normal(0, deviation);
  std::vector<double> values(static_cast<size_t>(shape.numel()));
  for (double& value : values) value = normal(engine);
  return from_vector(values, shape).to(dtype);
}

/// Uniform in [low, high].
class Draw {
 public:
  explicit Draw(uint64_t seed) : engine_(seed) {}
  int64_t operator()(int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(engine_);
  }
  template <class T>
  T of(const std::vector<T>& values) {
    return values[static_cast<size_t>((*this)(0, static_cast<int64_t>(values.size()) - 1))];
  }
  bool one_in(int64_t n) { return (*this)(1, n) == 1; }
  bool chance(double probability) {
    return std::uniform_real_distribution<double>(0, 1)(engine_) < probability;
  }

 private:
  std::mt19937_64 engine_;
};

inline double largest_difference(const Tensor& a, const Tensor& b) {
  EXPECT_EQ(a.shape(), b.shape());
  const std::vector<double> x = a.to_vector<double>(), y = b.to_vector<double>();
  double largest = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    if (x[i] == y[i]) continue;  // infinities
    const double difference = std::abs(x[i] - y[i]);
    if (!(difference <= largest)) largest = difference;  // keeps NaN
  }
  return largest;
}

inline double largest_magnitude(const Tensor& a) {
  double largest = 0;
  for (const double value : a.to_vector<double>()) largest = std::max(largest, std::abs(value));
  return largest;
}

inline double root_mean_square(const Tensor& a) {
  double sum = 0;
  for (const double value : a.to_vector<double>()) sum += value * value;
  return std::sqrt(sum / static_cast<double>(std::max<int64_t>(a.numel(), 1)));
}

inline bool same_bits(const Tensor& a, const Tensor& b) {
  const Tensor x = a.contiguous(), y = b.contiguous();
  return x.shape() == y.shape() && x.dtype() == y.dtype() &&
         (x.numel() == 0 || std::memcmp(x.raw_data(), y.raw_data(),
                                        static_cast<size_t>(x.numel()) * size_of(x.dtype())) == 0);
}

/// The same values with gaps between rows, an offset, and heads before rows in memory.
inline Tensor scattered(const Tensor& x) {
  const Shape& s = x.shape();
  Tensor wide = full({s[0] + 1, s[2], s[1] + 2, s[3] + 5}, std::nan(""), x.dtype());
  Tensor view = wide.slice(0, 1, s[0] + 1).slice(2, 1, s[1] + 1).slice(3, 3, s[3] + 3);
  view = view.permute({0, 2, 1, 3});
  view.copy_(x);
  return view;
}

}  // namespace weft::attention::testing
