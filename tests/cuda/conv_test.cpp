#include "weft/tensor/ops/conv.h"

#include <limits>
#include <vector>

#include "weft/tensor/cudnn_choice.h"
#include "weft/tensor/error.h"
#include "weft/tensor/ops/batch_norm.h"
#include "weft/tensor/ops/pool.h"
#include "weft/tensor/stream.h"

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

/// Of layers that cuDNN computes where it can: Weft's own kernels are compared as well.
class CudaLayer : public test::CudaTest {
 protected:
  void TearDown() override { set_cudnn_enabled(true); }

  /// Calls body() with cuDNN, then without.
  template <class Body>
  static void with_and_without_cudnn(Body&& body) {
    for (const bool enabled : {true, false}) {
      SCOPED_TRACE(enabled ? "with cuDNN" : "Weft's kernels");
      set_cudnn_enabled(enabled);
      body();
    }
  }
};

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

class CudaConv : public CudaLayer {};

TEST_F(CudaConv, EqualsTheCpu) {
  for (const DType dtype : kFloating) {
    for (const ConvCase& c : conv_cases()) {
      const Tensor x = random_tensor(c.x, dtype, 1), weight = random_tensor(c.weight, dtype, 2);
      const Tensor bias = random_tensor({c.weight[0]}, dtype, 3);
      const Tensor y = conv2d(x, weight, bias, c.options);
      const Tensor dy = random_tensor(y.shape(), dtype, 4);
      with_and_without_cudnn([&] {
        expect_close(conv2d(mirrored(x), mirrored(weight), mirrored(bias), c.options), y, 0,
                     tolerance(dtype), "y");
        expect_close(conv2d_backward_input(mirrored(dy), mirrored(weight), c.x, c.options),
                     conv2d_backward_input(dy, weight, c.x, c.options), 0, tolerance(dtype), "dx");
        expect_close(conv2d_backward_weight(mirrored(dy), mirrored(x), c.weight, c.options),
                     conv2d_backward_weight(dy, x, c.weight, c.options), 0.01, 3 * tolerance(dtype),
                     "dweight");
        expect_close(conv_backward_bias(mirrored(dy)), conv_backward_bias(dy), 0.01,
                     tolerance(dtype), "dbias");
      });
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

class CudaPool : public CudaLayer {};

struct PoolCase {
  Shape x;
  Pool2dOptions options;
};

std::vector<PoolCase> pool_cases() {
  return {{{1, 1, 1, 1}, {.kernel = {1, 1}}},
          {{2, 3, 11, 8}, {.kernel = {2, 2}}},
          {{2, 3, 11, 8}, {.kernel = {3, 2}, .stride = {1, 2}, .padding = {1, 1}}},
          {{2, 3, 11, 8},
           {.kernel = {3, 3}, .stride = {2, 2}, .padding = {1, 0}, .count_padding = false}},
          {{1, 2, 7, 5}, {.kernel = {2, 3}, .stride = {3, 4}, .padding = {1, 1}}},
          {{3, 1, 33, 65},
           {.kernel = {5, 4}, .stride = {2, 1}, .padding = {2, 2}, .count_padding = false}},
          {{5, 7, 2, 2}, {.kernel = {2, 2}, .padding = {1, 1}, .count_padding = false}}};
}

TEST_F(CudaPool, EqualsTheCpu) {
  for (const DType dtype : kFloating) {
    for (const auto& [shape, options] : pool_cases()) {
      const Tensor x = random_tensor(shape, dtype, 1);
      const MaxPoolResult on_cpu = max_pool2d_forward(x, options);
      const Tensor dy = random_tensor(on_cpu.y.shape(), dtype, 2);
      with_and_without_cudnn([&] {
        const MaxPoolResult on_gpu = max_pool2d_forward(mirrored(x), options);
        expect_same(on_gpu.y, on_cpu.y, "max");
        expect_same(on_gpu.indices, on_cpu.indices, "indices");
        expect_same(max_pool2d(mirrored(x), options), on_cpu.y, "max alone");
        expect_close(max_pool2d_backward(mirrored(dy), mirrored(on_cpu.indices), shape),
                     max_pool2d_backward(dy, on_cpu.indices, shape), 0, tolerance(dtype) / 10,
                     "dx of max");
        expect_close(avg_pool2d(mirrored(x), options), avg_pool2d(x, options), 0,
                     tolerance(dtype) / 10, "mean");
        expect_close(avg_pool2d_backward(mirrored(dy), shape, options),
                     avg_pool2d_backward(dy, shape, options), 0, tolerance(dtype) / 10,
                     "dx of mean");
      });
    }
  }
}

TEST_F(CudaPool, KeepsNanAndInfinitiesApart) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const double infinity = std::numeric_limits<double>::infinity();
  const Tensor values = from_vector<double>(
      {1, nan, 2, nan, -infinity, -infinity, -infinity, -infinity, infinity, 5, 5, 5},
      {1, 1, 3, 4});
  for (const DType dtype : kFloating) {
    const Tensor x = values.to(dtype);
    for (const Pool2dOptions& options : std::vector<Pool2dOptions>{
             {.kernel = {1, 4}},
             {.kernel = {1, 2}},
             {.kernel = {2, 2}, .stride = {1, 1}, .padding = {1, 1}, .count_padding = false}}) {
      with_and_without_cudnn([&] {
        expect_close(max_pool2d(mirrored(x), options), max_pool2d(x, options), 0, 0, "max");
        expect_close(avg_pool2d(mirrored(x), options), avg_pool2d(x, options), 0,
                     tolerance(dtype) / 10, "mean");
      });
    }
  }
}

TEST_F(CudaPool, TakesOneDimensionAndEmptyBatches) {
  const Tensor x = random_tensor({2, 3, 17}, DType::f32, 1);
  const Pool1dOptions options{.kernel = 4, .stride = 3, .padding = 2};
  const Tensor none = empty({0, 3, 4, 4}, DType::f32, test::kGpu);
  with_and_without_cudnn([&] {
    expect_close(max_pool1d(mirrored(x), options), max_pool1d(x, options), 0, 0, "max");
    expect_close(avg_pool1d(mirrored(x), options), avg_pool1d(x, options), 0, 2e-6, "mean");
    EXPECT_EQ(max_pool2d(none).shape(), Shape({0, 3, 2, 2}));
    EXPECT_EQ(avg_pool2d(none).shape(), Shape({0, 3, 2, 2}));
  });
}

TEST_F(CudaPool, ReportsPositionsOutsideThePlane) {
  const Tensor dy = mirrored(random_tensor({1, 2, 1, 2}, DType::f32, 1));
  for (const int64_t bad : {-1, 12}) {
    const Tensor indices = mirrored(from_vector<int64_t>({0, 11, 3, bad}, {1, 2, 1, 2}));
    const Tensor dx = max_pool2d_backward(dy, indices, {1, 2, 3, 4});
    EXPECT_THROW(current_stream(test::kGpu).synchronize(), IndexError) << bad;
  }
}

class CudaBatchNorm : public CudaLayer {
 protected:
  static std::vector<Shape> shapes() {
    return {{5, 3}, {2, 4, 33}, {3, 7, 9, 5}, {64, 2, 31}, {1, 1, 20}, {16, 129, 1, 1}};
  }
  static DType statistics_type(DType dtype) {
    return dtype == DType::f64 ? DType::f64 : DType::f32;
  }
};

TEST_F(CudaBatchNorm, EqualsTheCpu) {
  for (const DType dtype : kFloating) {
    const DType wide = statistics_type(dtype);
    for (const Shape& shape : shapes()) {
      const Tensor x = random_tensor(shape, dtype, 1), dy = random_tensor(shape, dtype, 2);
      const Tensor gain = random_tensor({shape[1]}, wide, 3);
      const Tensor bias = random_tensor({shape[1]}, wide, 4);
      const RunningStatistics start{random_tensor({shape[1]}, wide, 5),
                                    random_tensor({shape[1]}, wide, 6, 0.5, 2)};
      const RunningStatistics cpu_running{start.mean.clone(), start.variance.clone()};
      const BatchNormResult on_cpu = batch_norm_train(x, gain, bias, cpu_running, 0.3, 1e-3);
      const auto cpu_gradient = batch_norm_backward(dy, x, gain, on_cpu.mean, on_cpu.rstd);
      with_and_without_cudnn([&] {
        const RunningStatistics running{mirrored(start.mean), mirrored(start.variance)};
        const uint64_t version = running.mean.version();
        const BatchNormResult on_gpu =
            batch_norm_train(mirrored(x), mirrored(gain), mirrored(bias), running, 0.3, 1e-3);
        EXPECT_NE(running.mean.version(), version) << "autograd has to see the change";
        expect_close(on_gpu.mean, on_cpu.mean, 1e-6, 1e-6, "mean");
        expect_close(on_gpu.rstd, on_cpu.rstd, 1e-5, 1e-6, "rstd");
        expect_close(on_gpu.y, on_cpu.y, 0.01, tolerance(dtype) / 2, "y");
        expect_close(running.mean, cpu_running.mean, 1e-5, 1e-6, "running mean");
        expect_close(running.variance, cpu_running.variance, 1e-5, 1e-6, "running variance");
        const auto gpu_gradient = batch_norm_backward(mirrored(dy), mirrored(x), mirrored(gain),
                                                      mirrored(on_cpu.mean), mirrored(on_cpu.rstd));
        expect_close(gpu_gradient.dx, cpu_gradient.dx, 0.01, 2 * tolerance(dtype), "dx");
        expect_close(gpu_gradient.dgain, cpu_gradient.dgain, 1e-4, 1e-4, "dgain");
        expect_close(gpu_gradient.dbias, cpu_gradient.dbias, 1e-4, 1e-4, "dbias");
      });
    }
  }
}

TEST_F(CudaBatchNorm, EvaluatesWithRunningStatistics) {
  for (const DType dtype : kFloating) {
    const DType wide = statistics_type(dtype);
    for (const Shape& shape : shapes()) {
      const Tensor x = random_tensor(shape, dtype, 1), dy = random_tensor(shape, dtype, 2);
      const Tensor gain = random_tensor({shape[1]}, wide, 3);
      const RunningStatistics running{random_tensor({shape[1]}, wide, 5),
                                      random_tensor({shape[1]}, wide, 6, 0.5, 2)};
      const Tensor y = batch_norm_eval(x, gain, {}, running);
      const auto gradient = batch_norm_backward(dy, x, gain, running.mean, running.variance,
                                                /*constant_statistics=*/true);
      with_and_without_cudnn([&] {
        const RunningStatistics on_gpu{mirrored(running.mean), mirrored(running.variance)};
        expect_close(batch_norm_eval(mirrored(x), mirrored(gain), {}, on_gpu), y, 0.01,
                     tolerance(dtype), "y");
        const auto gpu_gradient =
            batch_norm_backward(mirrored(dy), mirrored(x), mirrored(gain), on_gpu.mean,
                                on_gpu.variance, /*constant_statistics=*/true);
        expect_close(gpu_gradient.dx, gradient.dx, 0.01, tolerance(dtype), "dx");
        expect_close(gpu_gradient.dgain, gradient.dgain, 1e-4, 1e-4, "dgain");
      });
    }
  }
}

TEST_F(CudaBatchNorm, LargeOffsetsDoNotDrownTheVariance) {
  const Tensor x = random_tensor({2, 1, 1000}, DType::f32, 1, 4096, 4097);
  const Tensor rstd = batch_norm_train(x, {}, {}).rstd;
  with_and_without_cudnn(
      [&] { expect_close(batch_norm_train(mirrored(x), {}, {}).rstd, rstd, 1e-3, 0, "rstd"); });
}

}  // namespace
}  // namespace weft
