#pragma once

// One test body over devices: operands are made on the CPU, mirrored on the GPU in the same layout,
// and the results of both compared.
#include <cmath>
#include <cstring>
#include <functional>
#include <vector>

#include <gtest/gtest.h>

#include "weft/tensor/op_table.h"
#include "weft/tensor/tensor.h"

#include "random_tensor.h"

namespace weft::test {

inline constexpr Device kGpu{DeviceType::cuda, 0};

/// Skips, with the reason, where there is no usable GPU.
class CudaTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!is_available(kGpu)) GTEST_SKIP() << kGpuName << ": " << unavailable_reason(kGpu);
  }

 private:
  static constexpr const char* kGpuName = "cuda:0";
};

/// The same elements, strides and offset on another device.
inline Tensor mirrored(const Tensor& tensor, Device device = kGpu) {
  const auto size = static_cast<int64_t>(size_of(tensor.dtype()));
  const auto count = static_cast<int64_t>(tensor.storage()->bytes()) / size;
  const Tensor whole(tensor.storage(), Layout{{count}, {1}, 0}, tensor.dtype());
  Tensor moved = empty({count}, tensor.dtype(), device);
  moved.copy_(whole);
  return {moved.storage(), tensor.layout(), tensor.dtype()};
}

/// The values in every kind of layout: dense, at an odd offset, rows with gaps, transposed in
/// memory, and no axis dense.
inline std::vector<Tensor> in_all_layouts(const Tensor& dense) {
  std::vector<Tensor> layouts{dense};
  if (dense.rank() == 0) return layouts;
  Tensor longer = full({dense.numel() + 1}, 77, dense.dtype());
  Tensor odd = longer.slice(0, 1, dense.numel() + 1).view(dense.shape());
  odd.copy_(dense);
  layouts.push_back(odd);
  layouts.push_back(with_gaps(dense));
  layouts.push_back(scattered(dense));
  if (dense.rank() > 1)
    layouts.push_back(dense.transpose(0, dense.rank() - 1).clone().transpose(0, dense.rank() - 1));
  return layouts;
}

/// Shapes of elementwise tests: one element, short of a vector, odd, several blocks, empty.
inline std::vector<Shape> elementwise_shapes() {
  return {{}, {1}, {15}, {1024}, {3, 17}, {64, 40}, {5, 1, 63}, {2, 3, 4, 5}, {0, 5}, {111, 65}};
}

/// Expects the same bits on both devices; any NaN equals any other.
inline void expect_same(const Tensor& on_gpu, const Tensor& on_cpu, const char* what = "") {
  ASSERT_EQ(on_gpu.device(), kGpu) << what;
  ASSERT_EQ(on_gpu.shape(), on_cpu.shape()) << what;
  ASSERT_EQ(on_gpu.dtype(), on_cpu.dtype()) << what;
  const Tensor actual = on_gpu.to(kCpu).contiguous();
  const Tensor expected = on_cpu.contiguous();
  const size_t size = size_of(actual.dtype());
  const auto* const a = static_cast<const char*>(actual.raw_data());
  const auto* const b = static_cast<const char*>(expected.raw_data());
  for (int64_t i = 0; i < actual.numel(); ++i) {
    const size_t at = static_cast<size_t>(i) * size;
    if (std::memcmp(a + at, b + at, size) == 0) continue;
    const double x = actual.view({-1}).select(0, i).item<double>();
    const double y = expected.view({-1}).select(0, i).item<double>();
    ASSERT_TRUE(std::isnan(x) && std::isnan(y))
        << what << ": element " << i << " of " << describe(on_cpu) << " is " << x << ", expected "
        << y;
  }
}

/// Expects |gpu - cpu| <= absolute + relative * |cpu| for every element; NaN equals NaN, infinities
/// themselves.
inline void expect_close(const Tensor& on_gpu, const Tensor& on_cpu, double relative,
                         double absolute, const char* what = "") {
  ASSERT_EQ(on_gpu.device(), kGpu) << what;
  ASSERT_EQ(on_gpu.shape(), on_cpu.shape()) << what;
  ASSERT_EQ(on_gpu.dtype(), on_cpu.dtype()) << what;
  const std::vector<double> actual = on_gpu.to_vector<double>();
  const std::vector<double> expected = on_cpu.to_vector<double>();
  for (size_t i = 0; i < actual.size(); ++i) {
    if (std::isnan(expected[i]) ? std::isnan(actual[i]) : actual[i] == expected[i]) continue;
    const double bound = absolute + relative * std::fabs(expected[i]);
    ASSERT_TRUE(std::fabs(actual[i] - expected[i]) <= bound)
        << what << ": element " << i << " of " << describe(on_cpu) << " is " << actual[i]
        << ", expected " << expected[i] << " within " << bound;
  }
}

/// Random values of any type: booleans, small integers, numbers in [-2, 2).
inline Tensor random_of_type(const Shape& shape, DType dtype, uint64_t seed) {
  if (is_floating(dtype)) return random_tensor(shape, dtype, seed);
  if (dtype == DType::boolean) return random_tensor(shape, DType::i32, seed, 0, 2).to(dtype);
  return random_tensor(shape, dtype, seed, dtype == DType::u8 ? 0 : -50, 50);
}

}  // namespace weft::test
