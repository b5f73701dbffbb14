#include "weft/autograd/functions/layer_norm.h"

#include <gtest/gtest.h>

#include "weft/autograd/grad_check.h"
#include "weft/tensor/error.h"

#include "random_tensor.h"

namespace weft::autograd {
namespace {

Variable leaf(const Shape& shape, uint64_t seed, DType dtype = DType::f64) {
  return Variable(test::random_tensor(shape, dtype, seed), /*requires_grad=*/true);
}

TEST(LayerNormGrad, AgreesWithDifferences) {
  for (const Shape& shape : {Shape{3, 5}, Shape{2, 3, 8}, Shape{9, 17}}) {
    const std::vector<Variable> inputs = {leaf(shape, 1), leaf({shape.back()}, 2),
                                          leaf({shape.back()}, 3)};
    const auto with_bias = grad_check(
        [](const std::vector<Variable>& in) { return layer_norm(in[0], in[1], in[2]); }, inputs);
    EXPECT_TRUE(with_bias) << to_string(shape) << ": " << with_bias.message;
    const auto without =
        grad_check([](const std::vector<Variable>& in) { return layer_norm(in[0], in[1]); },
                   {inputs[0], inputs[1]});
    EXPECT_TRUE(without) << to_string(shape) << ": " << without.message;
  }
}

TEST(LayerNormGrad, ParametersMayDifferInTypeAndBeFrozen) {
  const Variable x = leaf({6, 32}, 1, DType::bf16);
  const Variable gain(ones({32}));
  const Variable bias = leaf({32}, 3, DType::bf16);
  layer_norm(x, gain, bias).backward(ones({6, 32}, DType::bf16));
  EXPECT_EQ(x.grad().dtype(), DType::bf16);
  EXPECT_FALSE(gain.grad().defined());
  EXPECT_EQ(bias.grad().dtype(), DType::bf16);
  EXPECT_EQ(bias.grad().to_vector<float>(), std::vector<float>(32, 6.0f));
}

}  // namespace
}  // namespace weft::autograd
