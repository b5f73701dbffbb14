#include "weft/autograd/functions/gather.h"

#include <gtest/gtest.h>

#include "weft/autograd/grad_check.h"

#include "random_tensor.h"

namespace weft::autograd {
namespace {

using test::random_tensor;

Variable leaf(const Shape& shape, uint64_t seed = 1) {
  return Variable(random_tensor(shape, DType::f64, seed), true);
}

TEST(GatherGrad, RepeatedIndicesAddUp) {
  const Tensor index = from_vector<int64_t>({0, 2, 2, 2, 1, 1}, {2, 3});
  const auto gathered = grad_check(
      [&](const std::vector<Variable>& v) { return gather(v[0], 1, index); }, {leaf({2, 4})});
  EXPECT_TRUE(gathered) << gathered.message;
  const auto part = grad_check(
      [&](const std::vector<Variable>& v) { return gather(v[0], -2, index); }, {leaf({4, 5})});
  EXPECT_TRUE(part) << part.message;
}

TEST(GatherGrad, ScatterAdd) {
  const Tensor index = from_vector<int64_t>({0, 2, 2, 2, 1, 1}, {2, 3});
  const auto result =
      grad_check([&](const std::vector<Variable>& v) { return scatter_add(v[0], 1, index, v[1]); },
                 {leaf({2, 4}), leaf({2, 3}, 2)});
  EXPECT_TRUE(result) << result.message;
}

TEST(GatherGrad, IndexSelectAndAdd) {
  const Tensor index = from_vector<int32_t>({3, 0, 3}, {3});
  for (int axis : {0, 1, -1}) {
    const auto selected =
        grad_check([&](const std::vector<Variable>& v) { return index_select(v[0], axis, index); },
                   {leaf({4, 5, 4})});
    EXPECT_TRUE(selected) << selected.message;
    Shape shape{4, 5, 4};
    shape[axis < 0 ? 2 : axis] = 3;
    const auto added = grad_check(
        [&](const std::vector<Variable>& v) { return index_add(v[0], axis, index, v[1]); },
        {leaf({4, 5, 4}), leaf(shape, 2)});
    EXPECT_TRUE(added) << added.message;
  }
}

TEST(GatherGrad, ConstantTargetsGetNone) {
  Variable source = leaf({2});
  const Variable target(zeros({3}, DType::f64));
  scatter_add(target, 0, from_vector<int64_t>({2, 0}, {2}), source)
      .backward(from_vector<double>({1, 2, 4}, {3}));
  EXPECT_EQ(source.grad().to_vector<double>(), (std::vector<double>{4, 1}));
  EXPECT_FALSE(target.grad().defined());
}

}  // namespace
}  // namespace weft::autograd
