#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "weft/attention/selection.h"
#include "weft/tensor/device.h"
#include "weft/tensor/tensor.h"

#include "attention_test_data.h"

namespace weft::attention::testing {

inline constexpr Device kGpu{DeviceType::cuda, 0};

/// Tests that compare the GPU's kernels with the CPU's; skipped where there is no GPU.
class OnGpu : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!is_available(kGpu)) GTEST_SKIP() << unavailable_reason(kGpu);
  }
};

/// |a - b| / |b| over all elements, which must be finite or equal; the root mean square of a where
/// b vanishes but for rounding.
inline double relative_error(const Tensor& a, const Tensor& b) {
  EXPECT_EQ(a.shape(), b.shape());
  const std::vector<double> x = a.to(kCpu).to_vector<double>(), y = b.to(kCpu).to_vector<double>();
  double difference = 0, size = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    if (x[i] == y[i] && std::isinf(x[i])) continue;
    difference += (x[i] - y[i]) * (x[i] - y[i]);
    size += y[i] * y[i];
  }
  const auto count = static_cast<double>(std::max<size_t>(x.size(), 1));
  return std::sqrt(difference / (size > 1e-20 * count ? size : count));
}

/// What a kernel may be off by. For the half types: what rounding every result, every probability
/// and every gradient of a score to them gives; a computation that rounds its scores as well is off
/// by several times as much.
inline double kernel_tolerance(DType dtype) {
  switch (dtype) {
    case DType::f64:
      return 1e-12;
    case DType::f32:
      return 5e-6;
    case DType::f16:
      return 1e-3;
    default:
      return 7e-3;
  }
}

inline Tensor on_gpu(const Tensor& x) {
  return x.defined() ? x.to(kGpu) : x;
}
/// The values of x in f64, on the CPU.
inline Tensor exact(const Tensor& x) {
  return x.defined() ? x.to(kCpu).to(DType::f64) : x;
}
/// x on the GPU, laid out as scattered() lays it out.
inline Tensor scattered_on_gpu(const Tensor& x) {
  const Shape& s = x.shape();
  const Tensor wide = full({s[0] + 1, s[2], s[1] + 2, s[3] + 5}, 77, x.dtype()).to(kGpu);
  Tensor view = wide.slice(0, 1, s[0] + 1).slice(2, 1, s[1] + 1).slice(3, 3, s[3] + 3);
  view = view.permute({0, 2, 1, 3});
  view.copy_(x.to(kGpu));
  return view;
}
inline bool same_bits_on_gpu(const Tensor& a, const Tensor& b) {
  return same_bits(a.to(kCpu), b.to(kCpu));
}

}  // namespace weft::attention::testing
