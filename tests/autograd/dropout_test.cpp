#include "weft/autograd/functions/dropout.h"

#include <gtest/gtest.h>

#include "weft/autograd/grad_check.h"
#include "weft/tensor/error.h"

#include "random_tensor.h"

namespace weft::autograd {
namespace {

TEST(DropoutGrad, PassesTheGradientCheck) {
  for (const Shape& shape : {Shape{}, Shape{15}, Shape{3, 63}, Shape{0}}) {
    const Variable x(test::random_tensor(shape, DType::f64, 1), true);
    const auto result = grad_check(
        [](const std::vector<Variable>& in) {
          Generator generator(5);  // the same mask at every call
          generator.reserve(9);
          return dropout(in[0], 0.4, generator);
        },
        {x});
    EXPECT_TRUE(result) << result.message;
  }
}

TEST(DropoutGrad, BackwardUsesTheMaskOfForwardHoweverTheGeneratorMoved) {
  for (DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    Generator generator(6);
    const Variable x(ones({63, 15}, dtype), true);
    const Variable y = dropout(x, 0.5, generator);
    generator.reserve(1000);
    y.backward(ones({63, 15}, dtype));
    EXPECT_EQ(x.grad().to_vector<float>(), y.data().to_vector<float>());
    const auto values = y.data().to_vector<float>();
    const auto dropped = std::count(values.begin(), values.end(), 0.0f);
    EXPECT_GT(dropped, 400);
    EXPECT_LT(dropped, 545);
  }
}

TEST(DropoutGrad, KeepsNoTensor) {
  Generator generator(7);
  const Tensor value = ones({8});
  const Variable x(value, true);
  const long before = value.storage().use_count();
  const Variable y = dropout(x, 0.5, generator);
  EXPECT_EQ(value.storage().use_count(), before);
  EXPECT_EQ(y.data().storage().use_count(), 1);
}

TEST(DropoutGrad, WithoutDroppingIsTheInput) {
  Generator generator(8);
  const Variable x(ones({2}), true);
  EXPECT_EQ(dropout(x, 0, generator).data().storage(), x.data().storage());
  EXPECT_THROW(dropout(x, 1, generator), ConfigError);
  EXPECT_THROW(dropout(Variable(ones({2}, DType::i32)), 0.5, generator), DTypeError);
}

}  // namespace
}  // namespace weft::autograd
