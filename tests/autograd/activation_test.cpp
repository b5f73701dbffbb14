#include "weft/autograd/functions/activation.h"

#include <array>
#include <utility>

#include <gtest/gtest.h>

#include "weft/autograd/functions/linear.h"
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

TEST(ActivationGrad, SwigluLinearAgreesWithDifferences) {
  for (const auto& [rows, features, width] :
       {std::array<int64_t, 3>{1, 1, 1}, {3, 5, 4}, {17, 16, 9}}) {
    const auto result = grad_check([](const Inputs& in) { return swiglu_linear(in[0], in[1]); },
                                   {leaf({rows, 2 * features}, 1), leaf({width, features}, 2)},
                                   {.max_elements = 60});
    EXPECT_TRUE(result) << rows << " x " << features << ": " << result.message;
  }
}

TEST(ActivationGrad, SwigluLinearEqualsItsParts) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const bool freeze_packed : {false, true}) {
      for (const bool freeze_weight : {false, true}) {
        const Tensor packed_data = test::random_tensor({2, 7, 24}, dtype, 1);
        const Tensor weight_data = test::random_tensor({9, 12}, DType::f32, 2);
        const Variable packed(packed_data, !freeze_packed), weight(weight_data, !freeze_weight);
        const Variable packed_too(packed_data, !freeze_packed);
        const Variable weight_too(weight_data, !freeze_weight);
        const Variable fused = swiglu_linear(packed, weight);
        const Variable parts = linear(swiglu_packed(packed_too), weight_too, {});
        EXPECT_EQ(fused.data().to_vector<float>(), parts.data().to_vector<float>());
        if (freeze_packed && freeze_weight) continue;
        const Tensor dy = test::random_tensor({2, 7, 9}, dtype, 3);
        for (int time = 0; time < 2; ++time) {
          fused.backward(dy, /*retain_graph=*/true);
          parts.backward(dy, /*retain_graph=*/true);
        }
        for (const auto& [one, other] :
             {std::pair{packed, packed_too}, std::pair{weight, weight_too}}) {
          ASSERT_EQ(one.grad().defined(), other.grad().defined());
          if (!one.grad().defined()) continue;
          EXPECT_EQ(one.grad().dtype(), one.dtype());
          EXPECT_EQ(one.grad().to_vector<float>(), other.grad().to_vector<float>());
        }
      }
    }
  }
}

TEST(ActivationGrad, KeepsLowPrecisionTypes) {
  const Variable packed = leaf({4, 64}, 1, DType::bf16);
  swiglu_packed(packed).backward(ones({4, 32}, DType::bf16));
  EXPECT_EQ(packed.grad().dtype(), DType::bf16);
}

}  // namespace
}  // namespace weft::autograd
