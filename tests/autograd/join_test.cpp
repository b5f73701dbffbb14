#include "weft/autograd/functions/join.h"

#include <gtest/gtest.h>

#include "weft/autograd/functions/linear.h"
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

bool same_bits(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() && a.to_vector<double>() == b.to_vector<double>();
}

TEST(JoinRows, AdjacentWeightsAreNotCopied) {
  std::vector<Variable> weights = {leaf({3, 5}, 1), leaf({2, 5}, 2), leaf({4, 5}, 3)};
  std::vector<Tensor> before;
  for (const Variable& weight : weights) before.push_back(weight.data().clone());
  const Variable copied = join_rows(weights);
  pack_storage(weights);
  for (size_t i = 0; i < 3; ++i) EXPECT_TRUE(same_bits(weights[i].data(), before[i]));
  const Variable joined = join_rows(weights);
  EXPECT_TRUE(same_bits(joined.data(), copied.data()));
  EXPECT_EQ(joined.data().storage(), weights[0].data().storage());
  EXPECT_NE(copied.data().storage(), joined.data().storage());

  const Tensor grad = random_tensor({9, 5}, DType::f64, 8);
  joined.backward(grad);
  EXPECT_TRUE(same_bits(weights[0].grad(), grad.slice(0, 0, 3)));
  EXPECT_TRUE(same_bits(weights[1].grad(), grad.slice(0, 3, 5)));
  EXPECT_TRUE(same_bits(weights[2].grad(), grad.slice(0, 5, 9)));
  // The caller's gradient was copied; one that nobody else holds is taken as it is.
  EXPECT_NE(weights[0].grad().storage(), grad.storage());
  for (Variable& weight : weights) weight.zero_grad();
  const Variable x(random_tensor({6, 5}, DType::f64, 9));
  linear(x, join_rows(weights), {}).backward(random_tensor({6, 9}, DType::f64, 10));
  EXPECT_EQ(weights[0].grad().storage(), weights[2].grad().storage());
  std::vector<Tensor> packed;
  for (Variable& weight : weights) {
    packed.push_back(weight.grad());
    weight.zero_grad();
  }
  linear(x, cat(weights, 0), {}).backward(random_tensor({6, 9}, DType::f64, 10));
  for (size_t i = 0; i < 3; ++i) EXPECT_TRUE(same_bits(weights[i].grad(), packed[i]));
  // An optimizer's write through one weight is seen in the whole.
  weights[1].mutable_data().fill_(7);
  EXPECT_EQ(join_rows(weights).data().select(0, 4).to_vector<double>()[0], 7);
}

}  // namespace
}  // namespace weft::autograd
