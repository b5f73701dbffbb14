#include "weft/tensor/ops/cross_entropy.h"

#include <array>
#include <cmath>
#include <string>

#include "weft/autograd/functions/cross_entropy.h"
#include "weft/tensor/error.h"
#include "weft/tensor/ops/arithmetic.h"
#include "weft/tensor/ops/reduce.h"
#include "weft/tensor/ops/unary.h"

#include "close_bounds.h"
#include "ops/cross_entropy_kernels.h"

namespace weft {
namespace {

using test::expect_close;
using test::expect_rounded;
using test::kFloating;
using test::mirrored;
using test::random_tensor;

class CudaCrossEntropy : public test::CudaTest {};

/// Targets over all classes, one of them ignored.
Tensor targets_of(int64_t rows, int64_t classes) {
  Tensor targets = random_tensor({rows}, DType::i64, 4, 0, static_cast<double>(classes));
  if (rows > 1) targets.select(0, 1).fill_(kIgnoreIndex);
  return targets;
}

void expect_cross_entropy(const Tensor& logits, double smoothing) {
  const Tensor targets = targets_of(logits.size(0), logits.size(1));
  const Tensor logits_gpu = mirrored(logits);
  const Tensor targets_gpu = mirrored(targets);
  const CrossEntropyResult cpu = cross_entropy_forward(logits, targets, kIgnoreIndex, smoothing);
  const CrossEntropyResult gpu =
      cross_entropy_forward(logits_gpu, targets_gpu, kIgnoreIndex, smoothing);
  expect_rounded(gpu.share, cpu.share, "share");
  expect_rounded(total_loss(gpu.losses, gpu.share), total_loss(cpu.losses, cpu.share), "mean", 8);
  expect_rounded(gpu.losses, cpu.losses, "losses", 8);
  expect_rounded(gpu.logsumexp, cpu.logsumexp, "logsumexp", 8);
  const Tensor dlosses = random_tensor({logits.size(0)}, cpu.losses.dtype(), 5);
  expect_rounded(
      cross_entropy_backward(mirrored(dlosses), logits_gpu, targets_gpu, mirrored(cpu.logsumexp),
                             kIgnoreIndex, smoothing),
      cross_entropy_backward(dlosses, logits, targets, cpu.logsumexp, kIgnoreIndex, smoothing),
      "dlogits");
}

TEST_F(CudaCrossEntropy, EqualsTheCpuForAnyNumberOfClasses) {
  for (const DType dtype : kFloating) {
    for (const int64_t classes : {1, 3, 16, 255, 256, 1024, 5000, 20000, 50304, 50257}) {
      SCOPED_TRACE(testing::Message() << to_string(dtype) << ", " << classes);
      const Tensor logits = random_tensor({9, classes}, dtype, 1, -9, 9);
      expect_cross_entropy(logits, 0);
      expect_cross_entropy(logits, 0.1);
      expect_cross_entropy(test::with_gaps(logits), 0.1);
    }
  }
}

/// Rows of `logits` in a buffer of that many columns.
Tensor in_columns(const Tensor& logits, int64_t columns) {
  Tensor buffer = full({logits.size(0), columns}, 77, logits.dtype());
  buffer.slice(1, 0, logits.size(1)).copy_(logits);
  return mirrored(buffer).slice(1, 0, logits.size(1));
}

TEST_F(CudaCrossEntropy, ComputesLossAndGradientInOnePass) {
  for (const DType dtype : kFloating) {
    const DType accumulator = dtype == DType::f64 ? DType::f64 : DType::f32;
    for (const int64_t classes :
         {1, 3, 8, 255, 256, 1000, 1024, 1031, 8192, 20000, 24576, 50304, 50257, 120000, 130001}) {
      for (const double smoothing : {0.0, 0.1}) {
        // Rows that begin at multiples of 16 bytes, and rows that do not.
        for (const int64_t columns : {(classes + 7) / 8 * 8, classes | 1}) {
          SCOPED_TRACE(testing::Message() << to_string(dtype) << ", " << classes << " of "
                                          << columns << ", smoothing " << smoothing);
          const Tensor logits = random_tensor({7, classes}, dtype, 1, -9, 9);
          CrossEntropyRows cpu{logits.to(accumulator).clone(), targets_of(7, classes), kIgnoreIndex,
                               smoothing};
          CrossEntropyRows gpu{in_columns(logits, columns), mirrored(cpu.targets), kIgnoreIndex,
                               smoothing};
          const Tensor dloss = smoothing > 0 ? scalar(0.375, accumulator) : Tensor();
          Tensor losses = empty({7}, accumulator);
          Tensor losses_gpu = mirrored(losses);
          Tensor dlogits = dtype == accumulator ? cpu.logits : empty(logits.shape(), dtype);
          cross_entropy_both_cpu(cpu, dloss, losses, dlogits, current_stream(kCpu));
          cross_entropy_both_cuda(gpu, dloss.defined() ? mirrored(dloss) : dloss, losses_gpu,
                                  gpu.logits, current_stream(test::kGpu));
          expect_rounded(losses_gpu, losses, "losses", 8);
          expect_rounded(gpu.logits, dlogits, "dlogits");
        }
      }
    }
  }
}

TEST_F(CudaCrossEntropy, LinearFormEqualsTheCpu) {
  for (const DType dtype : kFloating) {
    const DType accumulator = dtype == DType::f64 ? DType::f64 : DType::f32;
    for (const auto& [n, classes, width] :
         {std::array<int64_t, 3>{1, 1, 1}, {1, 3, 8}, {17, 257, 24}, {100, 2100, 64}}) {
      for (const int64_t chunk : {int64_t{0}, (n + 2) / 3}) {
        for (const bool scaled : {false, true}) {
          SCOPED_TRACE(testing::Message() << to_string(dtype) << ", " << n << " x " << classes
                                          << " x " << width << (scaled ? ", scaled" : ""));
          const Tensor hidden = random_tensor({n, width}, dtype, 1);
          const Tensor weight =
              random_tensor({classes, width}, DType::bf16, 2, -1, 1).to(accumulator);
          const Tensor targets = targets_of(n, classes);
          LinearCrossEntropyOptions options{
              .want_dhidden = true, .want_dweight = true, .chunk_rows = chunk};
          if (scaled) options.scale = scalar(0.5 / static_cast<double>(n));
          const auto cpu = linear_cross_entropy_forward(hidden, weight, targets, options);
          if (scaled) options.scale = mirrored(options.scale);
          const auto gpu = linear_cross_entropy_forward(mirrored(hidden), mirrored(weight),
                                                        mirrored(targets), options);
          // Logits of half types are rounded on the GPU alone; they reach sqrt(width) or so.
          const double unit = dtype == DType::f64   ? 1e-12
                              : dtype == DType::f32 ? 2e-5
                                                    : 2 * test::rounding_error(dtype);
          const double size = std::sqrt(static_cast<double>(width));
          const double share = 1 / static_cast<double>(n);
          expect_close(gpu.losses, cpu.losses, unit, unit * size, "losses");
          expect_close(gpu.loss, cpu.loss, unit, unit * size, "loss");
          expect_close(gpu.dhidden, cpu.dhidden, 2 * unit, 4 * unit * size * share, "dhidden");
          expect_close(gpu.dweight, cpu.dweight, 2 * unit, 4 * unit * size, "dweight");
        }
      }
    }
  }
}

TEST_F(CudaCrossEntropy, NothingCountedGivesZeros) {
  for (const DType dtype : kFloating) {
    const Tensor hidden = mirrored(random_tensor({17, 16}, dtype, 1));
    const Tensor weight = mirrored(random_tensor({259, 16}, dtype, 2));
    for (const int64_t n : {17, 0}) {
      const Tensor targets = mirrored(full({n}, kIgnoreIndex, DType::i64));
      const auto result = linear_cross_entropy_forward(
          hidden.slice(0, 0, n), weight, targets, {.want_dhidden = true, .want_dweight = true});
      EXPECT_EQ(result.loss.item<double>(), 0.0);
      for (const Tensor& grad : {result.dhidden, result.dweight}) {
        for (const double value : grad.to_vector<double>()) ASSERT_EQ(value, 0.0);
      }
      EXPECT_EQ(cross_entropy(mirrored(random_tensor({n, 5}, dtype)), targets).item<double>(), 0.0);
    }
  }
}

TEST_F(CudaCrossEntropy, BackwardTakesEveryGradientOfTheLoss) {
  using autograd::Variable;
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    SCOPED_TRACE(to_string(dtype));
    const Tensor targets = mirrored(targets_of(17, 259));
    Variable hidden(mirrored(random_tensor({17, 32}, dtype, 1)), true);
    Variable weight(mirrored(random_tensor({259, 32}, DType::f32, 2)), true);
    const Tensor scale = mirrored(scalar(0.125));
    const Variable loss =
        autograd::linear_cross_entropy(hidden, weight, targets, kIgnoreIndex, 0, scale);
    loss.backward({}, /*retain_graph=*/true);
    const Tensor dhidden = hidden.grad().to(kCpu), dweight = weight.grad().to(kCpu);
    EXPECT_GT(sum(abs(dweight)).item<float>(), 0.0f);
    hidden.zero_grad();
    weight.zero_grad();
    loss.backward(mirrored(scalar(4)), /*retain_graph=*/true);
    test::expect_same(hidden.grad(), mul(dhidden, 4.0), "dhidden times 4");
    test::expect_same(weight.grad(), mul(dweight, 4.0), "dweight times 4");
    loss.backward(mirrored(scalar(-4)));
    for (const Tensor& grad : {hidden.grad(), weight.grad()}) {
      for (const float value : grad.to_vector<float>()) ASSERT_EQ(value, 0.0f);
    }

    Variable logits(mirrored(random_tensor({17, 259}, dtype, 3)), true);
    const Variable mean = autograd::cross_entropy(logits, targets);
    mean.backward({}, /*retain_graph=*/true);
    const Tensor dlogits = logits.grad().to(kCpu);
    logits.zero_grad();
    mean.backward(mirrored(scalar(2)));
    expect_rounded(logits.grad(), mul(dlogits, 2.0), "dlogits times 2");
  }
}

TEST_F(CudaCrossEntropy, RefusesTargetsOutside) {
  const Tensor logits = mirrored(random_tensor({2, 5}, DType::f32));
  const Tensor targets = mirrored(from_vector<int64_t>({1, 5}, {2}));
  const auto expect_refused = [](const auto& compute, const std::string& op) {
    try {
      compute().template item<float>();
      ADD_FAILURE() << op << " took a target outside";
    } catch (const IndexError& error) {
      EXPECT_NE(std::string(error.what()).find(op + ": target 5 is not one of V = 5"),
                std::string::npos)
          << error.what();
    }
  };
  expect_refused([&] { return cross_entropy(logits, targets); }, "cross_entropy");
  const Tensor hidden = mirrored(random_tensor({2, 8}, DType::bf16));
  const Tensor weight = mirrored(random_tensor({5, 8}, DType::bf16));
  expect_refused(
      [&] {
        return linear_cross_entropy_forward(hidden, weight, targets, {.want_dhidden = true}).loss;
      },
      "linear_cross_entropy");
  EXPECT_THROW(cross_entropy(logits, from_vector<int64_t>({1, 2}, {2})), DeviceError);
}

}  // namespace
}  // namespace weft
