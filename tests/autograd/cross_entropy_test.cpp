#include "weft/autograd/functions/cross_entropy.h"

#include <gtest/gtest.h>

#include "weft/autograd/grad_check.h"
#include "weft/autograd/node.h"

#include "random_tensor.h"

namespace weft::autograd {
namespace {

using Inputs = std::vector<Variable>;

Variable leaf(const Shape& shape, uint64_t seed, DType dtype = DType::f64) {
  return Variable(test::random_tensor(shape, dtype, seed), /*requires_grad=*/true);
}

const Tensor& targets() {
  static const Tensor targets = from_vector<int64_t>({3, 0, kIgnoreIndex, 6, 6}, {5});
  return targets;
}

TEST(CrossEntropyGrad, AgreesWithDifferences) {
  for (const double smoothing : {0.0, 0.2}) {
    const auto mean = grad_check(
        [&](const Inputs& in) { return cross_entropy(in[0], targets(), kIgnoreIndex, smoothing); },
        {leaf({5, 7}, 1)});
    EXPECT_TRUE(mean) << mean.message;
    const auto each = grad_check(
        [&](const Inputs& in) {
          return cross_entropy_per_token(in[0], targets(), kIgnoreIndex, smoothing);
        },
        {leaf({5, 7}, 1)});
    EXPECT_TRUE(each) << each.message;
    const auto fused = grad_check(
        [&](const Inputs& in) {
          return linear_cross_entropy(in[0], in[1], targets(), kIgnoreIndex, smoothing);
        },
        {leaf({5, 4}, 1), leaf({7, 4}, 2)});
    EXPECT_TRUE(fused) << fused.message;
  }
}

TEST(CrossEntropyGrad, NothingCountedGivesZeros) {
  const Variable logits = leaf({2, 3}, 1, DType::f32);
  const Variable hidden = leaf({2, 3}, 2, DType::f32);
  const Variable weight = leaf({4, 3}, 3, DType::f32);
  const Tensor none = full({2}, kIgnoreIndex, DType::i64);
  cross_entropy(logits, none).backward();
  linear_cross_entropy(hidden, weight, none).backward();
  EXPECT_EQ(logits.grad().to_vector<float>(), std::vector<float>(6, 0.0f));
  EXPECT_EQ(hidden.grad().to_vector<float>(), std::vector<float>(6, 0.0f));
  EXPECT_EQ(weight.grad().to_vector<float>(), std::vector<float>(12, 0.0f));
}

TEST(CrossEntropyGrad, LinearFormGivesTheSameGradientsEveryTime) {
  const Variable hidden = leaf({5, 8}, 1, DType::f32);
  const Variable weight = leaf({7, 8}, 2, DType::f32);
  const Variable loss = linear_cross_entropy(hidden, weight, targets());
  loss.backward({}, /*retain_graph=*/true);
  const std::vector<float> dhidden = hidden.grad().to_vector<float>();
  const std::vector<float> dweight = weight.grad().to_vector<float>();
  Variable(hidden).zero_grad();
  Variable(weight).zero_grad();
  loss.backward(scalar(2));
  for (size_t i = 0; i < dhidden.size(); ++i)
    EXPECT_EQ(hidden.grad().to_vector<float>()[i], 2 * dhidden[i]);
  for (size_t i = 0; i < dweight.size(); ++i)
    EXPECT_EQ(weight.grad().to_vector<float>()[i], 2 * dweight[i]);
}

TEST(CrossEntropyGrad, ScaledSumAgreesWithDifferences) {
  const Tensor scale = scalar(0.7, DType::f64);
  const auto result = grad_check(
      [&](const Inputs& in) {
        return linear_cross_entropy(in[0], in[1], targets(), kIgnoreIndex, 0.1, scale);
      },
      {leaf({5, 4}, 1), leaf({7, 4}, 2)});
  EXPECT_TRUE(result) << result.message;

  // Twice over one record, with and without a gradient of the loss.
  const Variable hidden = leaf({5, 8}, 1, DType::bf16);
  const Variable weight = leaf({7, 8}, 2, DType::f32);
  const Variable loss =
      linear_cross_entropy(hidden, weight, targets(), kIgnoreIndex, 0, scalar(0.25));
  loss.backward({}, /*retain_graph=*/true);
  const std::vector<float> once = weight.grad().to_vector<float>();
  loss.backward(scalar(-1));
  for (const float sum : weight.grad().to_vector<float>()) EXPECT_EQ(sum, 0.0f);
  EXPECT_NE(once, std::vector<float>(once.size()));
}

TEST(CrossEntropyGrad, LinearFormMakesTheGradientsThatAreAskedFor) {
  const Variable hidden = leaf({5, 8}, 1, DType::bf16);
  const Variable weight(test::random_tensor({7, 8}, DType::f32, 2));
  linear_cross_entropy(hidden, weight, targets()).backward();
  EXPECT_EQ(hidden.grad().dtype(), DType::bf16);
  EXPECT_FALSE(weight.grad().defined());

  const Variable frozen(hidden.data());
  const Variable trained = leaf({7, 8}, 2, DType::f32);
  linear_cross_entropy(frozen, trained, targets()).backward();
  EXPECT_EQ(trained.grad().dtype(), DType::f32);
  EXPECT_FALSE(frozen.grad().defined());

  const NoGradGuard no_grad;
  EXPECT_FALSE(linear_cross_entropy(hidden, trained, targets()).requires_grad());
}

}  // namespace
}  // namespace weft::autograd
