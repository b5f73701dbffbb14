#include "weft/tensor/ops/conv.h"

#include <vector>

#include "weft/tensor/ops/batch_norm.h"
#include "weft/tensor/ops/pool.h"

#include "devices.h"

namespace weft {
namespace {

using test::expect_close;
using test::expect_same;
using test::mirrored;
using test::random_tensor;

constexpr DType kFloating[] = {DType::f64, DType::f32, DType::bf16, DType::f16};

double tolerance(DType dtype) {
  switch (dtype) {
    case DType::f64:
      return 1e-12;
    case DType::f32:
      return 2e-5;
    case DType::bf16:
      return 0.08;
    default:
      return 0.01;
  }
}

struct ConvCase {
  Shape x, weight;
  Conv2dOptions options;
};

std::vector<ConvCase> conv_cases() {
  return {
      {{1, 1, 1, 1}, {1, 1, 1, 1}, {}},
      {{2, 3, 9, 11}, {4, 3, 3, 3}, {}},
      {{2, 4, 9, 11}, {6, 2, 3, 2}, {.stride = {2, 1}, .padding = {1, 2}, .groups = 2}},
      {{3, 5, 12, 7}, {5, 1, 3, 3}, {.padding = {1, 1}, .groups = 5}},
      {{1, 2, 15, 15}, {3, 2, 3, 3}, {.stride = {1, 3}, .padding = {2, 2}, .dilation = {2, 3}}},
      {{2, 8, 6, 6}, {16, 8, 1, 1}, {}},
  };
}

class CudaConv : public test::CudaTest {};

TEST_F(CudaConv, EqualsTheCpu) {
  for (const DType dtype : kFloating) {
    for (const ConvCase& c : conv_cases()) {
      const Tensor x = random_tensor(c.x, dtype, 1), weight = random_tensor(c.weight, dtype, 2);
      const Tensor bias = random_tensor({c.weight[0]}, dtype, 3);
      const Tensor y = conv2d(x, weight, bias, c.options);
      expect_close(conv2d(mirrored(x), mirrored(weight), mirrored(bias), c.options), y, 0,
                   tolerance(dtype), "y");
      const Tensor dy = random_tensor(y.shape(), dtype, 4);
      expect_close(conv2d_backward_input(mirrored(dy), mirrored(weight), c.x, c.options),
                   conv2d_backward_input(dy, weight, c.x, c.options), 0, tolerance(dtype), "dx");
      expect_close(conv2d_backward_weight(mirrored(dy), mirrored(x), c.weight, c.options),
                   conv2d_backward_weight(dy, x, c.weight, c.options), 0.01, 3 * tolerance(dtype),
                   "dweight");
      expect_close(conv_backward_bias(mirrored(dy)), conv_backward_bias(dy), 0.01, tolerance(dtype),
                   "dbias");
    }
  }
}

TEST_F(CudaConv, TakesOneDimensionAndEmptyBatches) {
  const Tensor x = random_tensor({2, 3, 17}, DType::f32, 1);
  const Tensor weight = random_tensor({4, 3, 5}, DType::f32, 2);
  expect_close(conv1d(mirrored(x), mirrored(weight), {}, {.padding = 2}),
               conv1d(x, weight, {}, {.padding = 2}), 0, 2e-5);
  const Tensor none = empty({0, 3, 4, 4}, DType::f32, test::kGpu);
  const Tensor filter = mirrored(random_tensor({2, 3, 3, 3}, DType::f32, 3));
  EXPECT_EQ(conv2d(none, filter).shape(), Shape({0, 2, 2, 2}));
}

class CudaPool : public test::CudaTest {};

std::vector<Pool2dOptions> pool_cases() {
  return {{.kernel = {2, 2}},
          {.kernel = {3, 2}, .stride = {1, 2}, .padding = {1, 1}},
          {.kernel = {3, 3}, .stride = {2, 2}, .padding = {1, 0}, .count_padding = false}};
}

TEST_F(CudaPool, EqualsTheCpu) {
  for (const DType dtype : kFloating) {
    for (const Pool2dOptions& options : pool_cases()) {
      const Tensor x = random_tensor({2, 3, 11, 8}, dtype, 1);
      const MaxPoolResult on_cpu = max_pool2d_forward(x, options);
      const MaxPoolResult on_gpu = max_pool2d_forward(mirrored(x), options);
      expect_same(on_gpu.y, on_cpu.y, "max");
      expect_same(on_gpu.indices, on_cpu.indices, "indices");
      const Tensor dy = random_tensor(on_cpu.y.shape(), dtype, 2);
      expect_close(max_pool2d_backward(mirrored(dy), mirrored(on_cpu.indices), x.shape()),
                   max_pool2d_backward(dy, on_cpu.indices, x.shape()), 0, tolerance(dtype) / 10);
      expect_close(avg_pool2d(mirrored(x), options), avg_pool2d(x, options), 0,
                   tolerance(dtype) / 10, "mean");
      expect_close(avg_pool2d_backward(mirrored(dy), x.shape(), options),
                   avg_pool2d_backward(dy, x.shape(), options), 0, tolerance(dtype) / 10);
    }
  }
}

class CudaBatchNorm : public test::CudaTest {};

TEST_F(CudaBatchNorm, EqualsTheCpu) {
  for (const DType dtype : kFloating) {
    const DType wide = dtype == DType::f64 ? DType::f64 : DType::f32;
    for (const Shape& shape : std::vector<Shape>{{5, 3}, {2, 4, 33}, {3, 7, 9, 5}, {64, 2, 31}}) {
      const Tensor x = random_tensor(shape, dtype, 1), dy = random_tensor(shape, dtype, 2);
      const Tensor gain = random_tensor({shape[1]}, wide, 3);
      const Tensor bias = random_tensor({shape[1]}, wide, 4);
      const BatchNormResult on_cpu = batch_norm_train(x, gain, bias, {}, 0.1, 1e-5);
      const BatchNormResult on_gpu =
          batch_norm_train(mirrored(x), mirrored(gain), mirrored(bias), {}, 0.1, 1e-5);
      expect_close(on_gpu.mean, on_cpu.mean, 1e-6, 1e-6, "mean");
      expect_close(on_gpu.rstd, on_cpu.rstd, 1e-5, 1e-6, "rstd");
      expect_close(on_gpu.y, on_cpu.y, 0.01, tolerance(dtype) / 2, "y");
      const auto cpu_gradient = batch_norm_backward(dy, x, gain, on_cpu.mean, on_cpu.rstd);
      const auto gpu_gradient = batch_norm_backward(mirrored(dy), mirrored(x), mirrored(gain),
                                                    mirrored(on_cpu.mean), mirrored(on_cpu.rstd));
      expect_close(gpu_gradient.dx, cpu_gradient.dx, 0.01, tolerance(dtype) / 2, "dx");
      expect_close(gpu_gradient.dgain, cpu_gradient.dgain, 1e-4, 1e-4, "dgain");
      expect_close(gpu_gradient.dbias, cpu_gradient.dbias, 1e-4, 1e-4, "dbias");
    }
  }
}

}  // namespace
}  // namespace weft
