#include "weft/nn/loss.h"

#include <cmath>

#include <gtest/gtest.h>

#include "weft/autograd/grad_check.h"
#include "weft/tensor/error.h"

namespace weft::nn {
namespace {

Variable leaf(const std::vector<double>& values, const Shape& shape) {
  return Variable(from_vector(values, shape), true);
}

TEST(MseLoss, ValueAndGradient) {
  const Variable x = leaf({1, 2, 3, 4}, {2, 2});
  const Variable y = leaf({1, 1, 1, 1}, {2, 2});
  EXPECT_NEAR(mse_loss(x, y).data().item<double>(), (0 + 1 + 4 + 9) / 4.0, 1e-15);
  const auto result = autograd::grad_check(
      [](const std::vector<Variable>& in) { return mse_loss(in[0], in[1]); }, {x, y});
  EXPECT_TRUE(result) << result.message;
  EXPECT_THROW(mse_loss(x, leaf({1, 2}, {2})), ShapeError);
}

TEST(BceWithLogitsLoss, ValueAndGradientAlsoAtZeroAndFarOut) {
  const std::vector<double> logits = {0, -2, 3, 0.5};
  const std::vector<double> targets = {1, 0, 0.25, 1};
  double expected = 0;
  for (size_t i = 0; i < 4; ++i) {
    const double p = 1 / (1 + std::exp(-logits[i]));
    expected -= (targets[i] * std::log(p) + (1 - targets[i]) * std::log(1 - p)) / 4;
  }
  const Variable x = leaf(logits, {4});
  const Variable y = leaf(targets, {4});
  EXPECT_NEAR(bce_with_logits_loss(x, y).data().item<double>(), expected, 1e-14);
  const auto result = autograd::grad_check(
      [](const std::vector<Variable>& in) { return bce_with_logits_loss(in[0], in[1]); }, {x, y});
  EXPECT_TRUE(result) << result.message;

  const Variable extreme = leaf({800, -800}, {2});
  const Variable loss = bce_with_logits_loss(extreme, leaf({1, 1}, {2}));
  EXPECT_NEAR(loss.data().item<double>(), 400, 1e-9);
  loss.backward();
  EXPECT_NEAR(extreme.grad().to_vector<double>()[1], -0.5, 1e-12);
}

TEST(CrossEntropyLoss, AveragesOverCountedTargets) {
  const Variable logits = leaf({1, 2, 3, 0, 0, 0, 5, 1, 1}, {1, 3, 3});
  const Tensor targets = from_vector<int64_t>({2, -100, 0}, {1, 3});
  const double first = std::log(std::exp(1) + std::exp(2) + std::exp(3)) - 3;
  const double third = std::log(std::exp(5) + 2 * std::exp(1)) - 5;
  EXPECT_NEAR(cross_entropy_loss(logits, targets).data().item<double>(), (first + third) / 2, 1e-6);
  const auto result = autograd::grad_check(
      [&](const std::vector<Variable>& in) { return cross_entropy_loss(in[0], targets); },
      {logits});
  EXPECT_TRUE(result) << result.message;
  EXPECT_THROW(cross_entropy_loss(logits, from_vector<int64_t>({3, 0, 0}, {3})), IndexError);
  EXPECT_THROW(cross_entropy_loss(logits, from_vector<int64_t>({0}, {1})), ShapeError);
}

}  // namespace
}  // namespace weft::nn
