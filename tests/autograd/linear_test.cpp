#include "weft/autograd/functions/linear.h"

#include <gtest/gtest.h>

#include "weft/autograd/grad_check.h"
#include "weft/tensor/error.h"
#include "weft/tensor/ops/matmul.h"

#include "random_tensor.h"

namespace weft::autograd {
namespace {

using test::random_tensor;

Variable leaf(const Shape& shape, uint64_t seed, DType dtype = DType::f64) {
  return Variable(random_tensor(shape, dtype, seed), /*requires_grad=*/true);
}

TEST(LinearGrad, AgreesWithDifferences) {
  for (const Shape& x : {Shape{4}, Shape{3, 4}, Shape{2, 3, 4}, Shape{2, 1, 3, 4}, Shape{0, 4}}) {
    const auto with_bias =
        grad_check([](const std::vector<Variable>& in) { return linear(in[0], in[1], in[2]); },
                   {leaf(x, 1), leaf({5, 4}, 2), leaf({5}, 3)});
    EXPECT_TRUE(with_bias) << to_string(x) << ": " << with_bias.message;
    const auto without =
        grad_check([](const std::vector<Variable>& in) { return linear(in[0], in[1]); },
                   {leaf(x, 1), leaf({5, 4}, 2)});
    EXPECT_TRUE(without) << to_string(x) << ": " << without.message;
  }
}

TEST(LinearGrad, MixedPrecisionGivesParametersF32Gradients) {
  const Variable x = leaf({2, 30, 20}, 1, DType::bf16);
  const Variable weight = leaf({40, 20}, 2, DType::f32), bias = leaf({40}, 3, DType::f32);
  const Variable y = linear(x, weight, bias);
  EXPECT_EQ(y.dtype(), DType::bf16);
  const Tensor dy = random_tensor({2, 30, 40}, DType::bf16, 4);
  y.backward(dy);
  EXPECT_EQ(x.grad().dtype(), DType::bf16);
  EXPECT_EQ(weight.grad().dtype(), DType::f32);
  EXPECT_EQ(bias.grad().dtype(), DType::f32);
  // Operands are exact in double, so only sums of 60 terms round.
  const Tensor exact_dy = dy.view({60, 40}).to(DType::f64);
  const Tensor exact_x = x.data().view({60, 20}).to(DType::f64);
  const Tensor dweight = weft::matmul(exact_dy, exact_x, {.transpose_a = true});
  test::expect_near(weight.grad(), dweight.to_vector<double>(), 1e-5, 1e-4);
  const Tensor dbias = weft::matmul(ones({60}, DType::f64), exact_dy);
  test::expect_near(bias.grad(), dbias.to_vector<double>(), 1e-5, 1e-4);
}

TEST(LinearGrad, AccumulatesOverUses) {
  const Variable x = leaf({3, 4}, 1), weight = leaf({5, 4}, 2);
  const Tensor dy = random_tensor({3, 5}, DType::f64, 3);
  linear(x, weight).backward(dy);
  const std::vector<double> once = weight.grad().to_vector<double>();
  linear(x, weight).backward(dy);
  for (size_t i = 0; i < once.size(); ++i)
    EXPECT_NEAR(weight.grad().to_vector<double>()[i], 2 * once[i], 1e-12);
}

TEST(LinearGrad, FrozenWeightGetsNone) {
  const Variable x = leaf({3, 4}, 1);
  const Variable weight(random_tensor({5, 4}, DType::f64, 2));
  linear(x, weight).backward(ones({3, 5}, DType::f64));
  EXPECT_TRUE(x.grad().defined());
  EXPECT_FALSE(weight.grad().defined());
}

TEST(LinearGrad, NoticesAWeightChangedBetweenForwardAndBackward) {
  const Variable x = leaf({3, 4}, 1, DType::bf16);
  Variable weight = leaf({5, 4}, 2, DType::f32);
  const Variable y = linear(x, weight);
  weight.mutable_data().fill_(0);
  EXPECT_THROW(y.backward(ones({3, 5}, DType::bf16)), AutogradError);
}

}  // namespace
}  // namespace weft::autograd
