#include "weft/autograd/functions/compare.h"

#include <gtest/gtest.h>

#include "weft/autograd/grad_check.h"
#include "weft/tensor/error.h"
#include "weft/tensor/ops/compare.h"

#include "random_tensor.h"

namespace weft::autograd {
namespace {

TEST(WhereGrad, PassesTheGradientCheckWithBroadcasting) {
  const Shape conditions[] = {{5, 7}, {7}, {5, 1}, {}, {2, 1, 7}};
  for (const Shape& shape : conditions) {
    const Tensor condition = gt(test::random_tensor(shape, DType::f64, 1), 0.0);
    const Variable a(test::random_tensor({5, 7}, DType::f64, 2), true);
    const Variable b(test::random_tensor({7}, DType::f64, 3), true);
    const auto both = grad_check(
        [&](const std::vector<Variable>& in) { return where(condition, in[0], in[1]); }, {a, b});
    EXPECT_TRUE(both) << both.message;
    EXPECT_TRUE(grad_check(
        [&](const std::vector<Variable>& in) { return where(condition, in[0], 2.0); }, {b}));
    EXPECT_TRUE(grad_check(
        [&](const std::vector<Variable>& in) { return where(condition, 2.0, in[0]); }, {b}));
  }
}

TEST(WhereGrad, GivesNothingToTheSideThatAsksForNothing) {
  const Tensor condition = from_vector<bool>({true, false}, {2});
  const Variable a(ones({2}, DType::bf16), true);
  const Variable b(ones({2}, DType::bf16));
  where(condition, a, b).backward(from_vector<float>({3, 4}, {2}).to(DType::bf16));
  EXPECT_EQ(a.grad().to_vector<float>(), (std::vector<float>{3, 0}));
  EXPECT_FALSE(b.grad().defined());
}

TEST(WhereGrad, NoticesAChangedCondition) {
  Tensor condition = ones({2}, DType::boolean);
  const Variable a(ones({2}), true);
  const Variable y = where(condition, a, 0.0);
  condition.fill_(0);
  EXPECT_THROW(y.backward(ones({2})), AutogradError);
}

}  // namespace
}  // namespace weft::autograd
