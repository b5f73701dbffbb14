#include "weft/autograd/functions/activation.h"

#include <gtest/gtest.h>

#include "weft/autograd/grad_check.h"

#include "random_tensor.h"

namespace weft::autograd {
namespace {

using Inputs = std::vector<Variable>;

Variable leaf(const Shape& shape, uint64_t seed, DType dtype = DType::f64) {
  return Variable(test::random_tensor(shape, dtype, seed), /*requires_grad=*/true);
}

TEST(ActivationGrad, AgreesWithDifferences) {
  const std::function<Variable(const Inputs&)> functions[] = {
      [](const Inputs& in) { return silu(in[0]); }, [](const Inputs& in) { return gelu(in[0]); },
      [](const Inputs& in) { return gelu(in[0], Gelu::tanh); },
      [](const Inputs& in) { return swiglu_packed(in[0]); }};
  for (const auto& function : functions) {
    for (const Shape& shape : {Shape{2}, Shape{3, 10}, Shape{2, 3, 34}}) {
      const auto result = grad_check(function, {leaf(shape, 1)});
      EXPECT_TRUE(result) << to_string(shape) << ": " << result.message;
    }
  }
}

TEST(ActivationGrad, SwigluAgreesWithDifferences) {
  for (const Shape& shape : {Shape{1}, Shape{3, 5}, Shape{2, 17}}) {
    const auto result = grad_check([](const Inputs& in) { return swiglu(in[0], in[1]); },
                                   {leaf(shape, 1), leaf(shape, 2)});
    EXPECT_TRUE(result) << to_string(shape) << ": " << result.message;
  }
}

TEST(ActivationGrad, KeepsLowPrecisionTypes) {
  const Variable packed = leaf({4, 64}, 1, DType::bf16);
  swiglu_packed(packed).backward(ones({4, 32}, DType::bf16));
  EXPECT_EQ(packed.grad().dtype(), DType::bf16);
}

}  // namespace
}  // namespace weft::autograd
