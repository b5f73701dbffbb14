#include "weft/autograd/functions/conv.h"

#include <gtest/gtest.h>

#include "weft/autograd/grad_check.h"

#include "random_tensor.h"

namespace weft::autograd {
namespace {

using test::random_tensor;

Variable leaf(const Shape& shape, uint64_t seed, DType dtype = DType::f64) {
  return Variable(random_tensor(shape, dtype, seed), /*requires_grad=*/true);
}

TEST(ConvGrad, AgreesWithDifferences) {
  struct Case {
    Shape x, weight;
    Conv2dOptions options;
  };
  const Case cases[] = {
      {{2, 3, 5, 4}, {2, 3, 3, 2}, {}},
      {{1, 2, 5, 6}, {3, 2, 2, 3}, {.stride = {2, 1}, .padding = {1, 2}, .dilation = {2, 1}}},
      {{2, 4, 4, 3}, {6, 2, 2, 2}, {.padding = {1, 0}, .groups = 2}},
      {{2, 3, 4, 5}, {3, 1, 3, 3}, {.stride = {1, 2}, .padding = {1, 1}, .groups = 3}},
      {{9, 1, 3, 3}, {2, 1, 2, 2}, {}},
      {{1, 2, 3, 3}, {2, 2, 1, 1}, {}},
  };
  for (const Case& c : cases) {
    const auto result = grad_check(
        [&](const std::vector<Variable>& in) { return conv2d(in[0], in[1], in[2], c.options); },
        {leaf(c.x, 1), leaf(c.weight, 2), leaf({c.weight[0]}, 3)});
    EXPECT_TRUE(result) << to_string(c.x) << ": " << result.message;
  }
}

TEST(ConvGrad, OneAxisAgreesWithDifferences) {
  for (const int64_t groups : {1, 4}) {
    const Conv1dOptions options{.stride = 1, .padding = 2, .dilation = 2, .groups = groups};
    const auto result = grad_check(
        [&](const std::vector<Variable>& in) { return conv1d(in[0], in[1], {}, options); },
        {leaf({2, 4, 9}, 1), leaf({4, 4 / groups, 3}, 2)});
    EXPECT_TRUE(result) << groups << ": " << result.message;
  }
}

TEST(ConvGrad, MixedPrecisionGivesParametersF32Gradients) {
  const Variable x = leaf({2, 3, 6, 6}, 1, DType::bf16);
  const Variable weight = leaf({4, 3, 3, 3}, 2, DType::f32), bias = leaf({4}, 3, DType::f32);
  const Variable y = conv2d(x, weight, bias);
  EXPECT_EQ(y.dtype(), DType::bf16);
  y.backward(ones(y.shape(), DType::bf16));
  EXPECT_EQ(x.grad().dtype(), DType::bf16);
  EXPECT_EQ(weight.grad().dtype(), DType::f32);
  EXPECT_EQ(bias.grad().to_vector<float>(), std::vector<float>(4, 32.0f));
}

TEST(ConvGrad, ReachesOnlyWhoAsks) {
  const Variable x(random_tensor({1, 2, 4, 4}, DType::f64, 1));
  const Variable weight = leaf({2, 2, 2, 2}, 2);
  const Variable y = conv2d(x, weight);
  y.backward(ones(y.shape(), DType::f64));
  EXPECT_FALSE(x.grad().defined());
  EXPECT_TRUE(weight.grad().defined());
}

}  // namespace
}  // namespace weft::autograd
