#include "weft/autograd/functions/rms_norm.h"

#include <algorithm>
#include <cmath>

#include <gtest/gtest.h>

#include "weft/autograd/functions/arithmetic.h"
#include "weft/autograd/functions/linear.h"
#include "weft/autograd/grad_check.h"
#include "weft/autograd/node.h"
#include "weft/tensor/allocator.h"
#include "weft/tensor/error.h"
#include "weft/tensor/ops/rms_norm.h"

#include "random_tensor.h"

namespace weft::autograd {
namespace {

using test::random_tensor;

Variable leaf(const Shape& shape, uint64_t seed, DType dtype = DType::f64) {
  return Variable(random_tensor(shape, dtype, seed), /*requires_grad=*/true);
}

TEST(RmsNormGrad, AgreesWithDifferences) {
  for (const Shape& shape : {Shape{1, 1}, Shape{3, 5}, Shape{2, 3, 8}, Shape{9, 17}}) {
    const auto result =
        grad_check([](const std::vector<Variable>& in) { return rms_norm(in[0], in[1], 1e-5); },
                   {leaf(shape, 1), leaf({shape.back()}, 2)});
    EXPECT_TRUE(result) << to_string(shape) << ": " << result.message;
  }
}

// The norm does not depend on the length of a row: its gradient stands across the row.
TEST(RmsNormGrad, IsOrthogonalToEveryRow) {
  for (const Shape& shape : {Shape{1, 1}, Shape{1, 2}, Shape{3, 5}, Shape{2, 3, 8},
                             Shape{2, 31, 24}, Shape{5, 63}, Shape{2, 111}, Shape{3, 256}}) {
    for (const DType dtype : {DType::f64, DType::f32}) {
      for (const double eps : {0.0, 1e-12}) {
        const Variable x = leaf(shape, 1, dtype);
        const Variable y = rms_norm(x, leaf({shape.back()}, 2, dtype), eps);
        y.backward(random_tensor(shape, dtype, 3));
        const std::vector<double> a = x.data().to_vector<double>(),
                                  da = x.grad().to_vector<double>();
        const auto width = static_cast<size_t>(shape.back());
        for (size_t row = 0; row < a.size(); row += width) {
          double product = 0, size = 0;
          for (size_t i = row; i < row + width; ++i) {
            product += da[i] * a[i];
            size += std::abs(da[i] * a[i]);
          }
          // A row of one element keeps its sign alone: there all of the gradient is rounding.
          const double scale = width == 1 ? std::abs(y.data().to_vector<double>()[row]) : size;
          EXPECT_LE(std::abs(product), (dtype == DType::f64 ? 1e-10 : 1e-5) * std::max(scale, 1e-2))
              << to_string(shape) << " " << to_string(dtype) << " eps " << eps;
        }
      }
    }
  }
}

TEST(RmsNormGrad, ResidualFormAgreesWithDifferences) {
  const std::vector<Variable> inputs = {leaf({5, 7}, 1), leaf({5, 7}, 2), leaf({7}, 3)};
  using Function = std::function<std::vector<Variable>(const std::vector<Variable>&)>;
  const Function both = [](const std::vector<Variable>& in) -> std::vector<Variable> {
    const auto [sum, y] = rms_norm_residual(in[0], in[1], in[2], 1e-5);
    return {sum, y};
  };
  const Function y_alone = [](const std::vector<Variable>& in) -> std::vector<Variable> {
    return {rms_norm_residual(in[0], in[1], in[2], 1e-5).y};
  };
  for (const auto& function : {both, y_alone}) {
    const auto result = grad_check(function, inputs);
    EXPECT_TRUE(result) << result.message;
  }
}

TEST(RmsNormGrad, UnusedNormPassesTheGradientOfTheSumThrough) {
  const Variable x = leaf({3, 4}, 1);
  const Variable residual = leaf({3, 4}, 2);
  const Variable gain = leaf({4}, 3);
  const Tensor seed = random_tensor({3, 4}, DType::f64, 4);
  rms_norm_residual(x, residual, gain).sum.backward(seed);
  EXPECT_EQ(x.grad().to_vector<double>(), seed.to_vector<double>());
  EXPECT_EQ(residual.grad().to_vector<double>(), seed.to_vector<double>());
  EXPECT_FALSE(gain.grad().defined());
}

TEST(RmsNormGrad, LowPrecisionGradientsKeepTheirTypes) {
  const Variable x = leaf({6, 32}, 1, DType::bf16);
  const Variable residual = leaf({6, 32}, 2, DType::bf16);
  const Variable gain = leaf({32}, 3, DType::f32);
  const auto [sum, y] = rms_norm_residual(x, residual, gain);
  backward({sum, y},
           {random_tensor({6, 32}, DType::bf16, 4), random_tensor({6, 32}, DType::bf16, 5)});
  EXPECT_EQ(x.grad().dtype(), DType::bf16);
  EXPECT_EQ(gain.grad().dtype(), DType::f32);
  EXPECT_EQ(x.grad().to_vector<float>(), residual.grad().to_vector<float>());
}

TEST(RmsNormGrad, SavesNothingItDoesNotNeed) {
  Variable x = leaf({4, 8}, 1, DType::f32);
  Variable residual = leaf({4, 8}, 2, DType::f32);
  const Variable gain = leaf({8}, 3, DType::f32);
  const auto [sum, y] = rms_norm_residual(x, residual, gain);
  x.mutable_data().zero_();  // the sum is saved, not its terms
  EXPECT_NO_THROW(y.backward(ones({4, 8})));

  const Variable again = rms_norm(x, gain);
  x.mutable_data().zero_();
  EXPECT_THROW(again.backward(ones({4, 8})), AutogradError);
}

TEST(RmsNormGrad, FrozenGainGetsNone) {
  const Variable x = leaf({4, 8}, 1, DType::f32);
  const Variable gain(ones({8}));
  rms_norm(x, gain).backward(ones({4, 8}));
  EXPECT_TRUE(x.grad().defined());
  EXPECT_FALSE(gain.grad().defined());
}

TEST(RmsNormGrad, WithoutAResidualTheSumIsTheInput) {
  const auto result = grad_check(
      [](const std::vector<Variable>& in) {
        const auto [sum, y] = rms_norm_residual(in[0], Variable(), in[1], 1e-5);
        return add(sum, mul(y, y));
      },
      {leaf({3, 5}, 1), leaf({5}, 2)});
  EXPECT_TRUE(result) << result.message;
}

TEST(RmsNormGrad, RecomputedOutputsAreNotKept) {
  const Variable x = leaf({64, 256}, 1, DType::f32), residual = leaf({64, 256}, 2, DType::f32);
  const Variable gain = leaf({256}, 3, DType::f32), weight = leaf({8, 256}, 4, DType::f32);
  std::vector<std::vector<float>> grads;
  std::vector<int64_t> kept;
  for (const bool recompute : {false, true}) {
    const int64_t start = allocator(kCpu).stats().allocated;
    Variable loss;
    {
      auto [sum, y] = rms_norm_residual(x, residual, gain, 1e-5, recompute);
      EXPECT_EQ(y.recomputation() != nullptr, recompute);
      loss = linear(y, weight, {});
    }
    kept.push_back(allocator(kCpu).stats().allocated - start);
    for (int time = 0; time < 2; ++time) loss.backward(ones({64, 8}), /*retain_graph=*/true);
    for (Variable leaf : {x, residual, gain, weight}) {
      grads.push_back(leaf.grad().to_vector<float>());
      leaf.zero_grad();
    }
  }
  EXPECT_LE(kept[1] + 64 * 256 * 4, kept[0]);
  for (size_t i = 0; i < 4; ++i) EXPECT_EQ(grads[i], grads[4 + i]) << i;

  Variable changed = leaf({256}, 3, DType::f32);
  const Variable loss = linear(rms_norm_residual(x, residual, changed, 1e-5, true).y, weight, {});
  changed.mutable_data().fill_(2);
  EXPECT_THROW(loss.backward(ones({64, 8})), AutogradError);
}

}  // namespace
}  // namespace weft::autograd
