#include "weft/autograd/functions/join.h"

#include <gtest/gtest.h>

#include "weft/autograd/grad_check.h"

#include "random_tensor.h"

namespace weft::autograd {
namespace {

using test::random_tensor;

Variable leaf(const Shape& shape, uint64_t seed) {
  return Variable(random_tensor(shape, DType::f64, seed), true);
}

TEST(JoinGrad, CatAndStack) {
  for (int axis : {0, 1, -1}) {
    Shape wide{3, 4};
    wide[axis < 0 ? axis + 2 : axis] = 7;
    const auto joined = grad_check(
        [&](const std::vector<Variable>& v) {
          return cat({v[0], v[1], v[0]}, axis);
        },
        {leaf({3, 4}, 1), leaf(wide, 2)});
    EXPECT_TRUE(joined) << joined.message;
    const auto stacked = grad_check(
        [&](const std::vector<Variable>& v) {
          return stack({v[0], v[1]}, axis);
        },
        {leaf({3, 4}, 1), leaf({3, 4}, 2)});
    EXPECT_TRUE(stacked) << stacked.message;
  }
}

TEST(JoinGrad, ConstantsGetNone) {
  Variable x = leaf({2}, 1);
  Variable constant(ones({2}, DType::f64));
  cat({constant, x}, 0).backward(from_vector<double>({1, 2, 3, 4}, {4}));
  EXPECT_EQ(x.grad().to_vector<double>(), (std::vector<double>{3, 4}));
  EXPECT_FALSE(constant.grad().defined());
}

}  // namespace
}  // namespace weft::autograd
