#include "weft/autograd/functions/view.h"

#include <functional>

#include <gtest/gtest.h>

#include "weft/autograd/functions/join.h"
#include "weft/autograd/grad_check.h"
#include "weft/tensor/error.h"

#include "random_tensor.h"

namespace weft::autograd {
namespace {

using test::random_tensor;

Variable leaf(const Shape& shape, DType dtype = DType::f64) {
  return Variable(random_tensor(shape, dtype), true);
}

struct Case {
  const char* name;
  std::function<Variable(const Variable&)> apply;
  std::function<Tensor(const Tensor&)> same_for_tensor;
};

std::vector<Case> cases() {
  return {
      {"reshape",
       [](const Variable& x) {
         return reshape(x, {4, -1});
       },
       [](const Tensor& x) {
         return x.reshape({4, -1});
       }},
      {"view",
       [](const Variable& x) {
         return view(x, {6, 5, 4});
       },
       [](const Tensor& x) {
         return x.view({6, 5, 4});
       }},
      {"transpose", [](const Variable& x) { return transpose(x, -1, 0); },
       [](const Tensor& x) { return x.transpose(0, 3); }},
      {"permute",
       [](const Variable& x) {
         return permute(x, {2, -1, 0, 1});
       },
       [](const Tensor& x) {
         return x.permute({2, 3, 0, 1});
       }},
      {"reshape of a permutation",
       [](const Variable& x) {
         return reshape(permute(x, {3, 0, 2, 1}), {8, 15});
       },
       [](const Tensor& x) {
         return x.permute({3, 0, 2, 1}).reshape({8, 15});
       }},
      {"slice", [](const Variable& x) { return slice(x, 2, 1, -1, 2); },
       [](const Tensor& x) { return x.slice(2, 1, 4, 2); }},
      {"slice of all", [](const Variable& x) { return slice(x, 1, 0, 100); },
       [](const Tensor& x) { return x; }},
      {"select", [](const Variable& x) { return select(x, -2, -1); },
       [](const Tensor& x) { return x.select(2, 4); }},
      {"expand",
       [](const Variable& x) {
         return expand(slice(x, 0, 0, 1), {2, 6, -1, 5, -1});
       },
       [](const Tensor& x) {
         return x.slice(0, 0, 1).expand({2, 6, 3, 5, 4});
       }},
      {"squeeze", [](const Variable& x) { return squeeze(slice(x, 2, 2, 3), 2); },
       [](const Tensor& x) { return x.select(2, 2); }},
      {"squeeze all", [](const Variable& x) { return squeeze(slice(slice(x, 0, 1, 2), 3, 0, 1)); },
       [](const Tensor& x) { return x.select(0, 1).select(2, 0); }},
      {"unsqueeze", [](const Variable& x) { return unsqueeze(x, 1); },
       [](const Tensor& x) { return x.unsqueeze(1); }},
      {"flatten", [](const Variable& x) { return flatten(x, 1, -2); },
       [](const Tensor& x) {
         return x.view({2, 15, 4});
       }},
      {"contiguous", [](const Variable& x) { return contiguous(transpose(x, 0, 1)); },
       [](const Tensor& x) { return x.transpose(0, 1).clone(); }},
  };
}

TEST(ViewGrad, ValuesAreThoseOfTheTensorAndGradientsCheck) {
  for (const Case& c : cases()) {
    SCOPED_TRACE(c.name);
    const Variable x = leaf({2, 3, 5, 4});
    const Variable y = c.apply(x);
    const Tensor expected = c.same_for_tensor(x.data());
    EXPECT_EQ(y.shape(), expected.shape());
    EXPECT_EQ(y.data().to_vector<double>(), expected.to_vector<double>());
    const auto result =
        grad_check([&](const std::vector<Variable>& v) { return c.apply(v[0]); }, {x});
    EXPECT_TRUE(result) << result.message;
  }
}

TEST(ViewGrad, ViewsShareElements) {
  const Variable x = leaf({4, 6});
  EXPECT_EQ(reshape(x, {24}).data().storage(), x.data().storage());
  EXPECT_EQ(transpose(x, 0, 1).data().storage(), x.data().storage());
  EXPECT_EQ(contiguous(x).grad_meta(), x.grad_meta());
  EXPECT_TRUE(contiguous(transpose(x, 0, 1)).data().is_contiguous());
}

TEST(ViewGrad, RankZero) {
  Variable x(scalar(2, DType::f64), true);
  flatten(expand(unsqueeze(x, 0), {3})).backward(from_vector<double>({1, 2, 4}, {3}));
  EXPECT_EQ(x.grad().item<double>(), 7);
  EXPECT_EQ(x.grad().shape(), Shape{});
}

TEST(ViewGrad, EmptySliceGivesZeros) {
  Variable x = leaf({3, 2});
  slice(x, 0, 1, 1).backward(empty({0, 2}, DType::f64));
  EXPECT_EQ(x.grad().to_vector<double>(), std::vector<double>(6, 0));
}

TEST(ViewGrad, SplitPutsThePiecesTogether) {
  const auto result = grad_check([](const std::vector<Variable>& v) { return split(v[0], 2, 1); },
                                 {leaf({3, 5, 2})});
  EXPECT_TRUE(result) << result.message;
  const std::vector<int64_t> sizes = {1, 0, 4};
  const auto uneven = grad_check(
      [&](const std::vector<Variable>& v) {
        const auto pieces = split(v[0], sizes, -2);
        return cat({pieces[2], pieces[0]}, 1);
      },
      {leaf({3, 5, 2})});
  EXPECT_TRUE(uneven) << uneven.message;
}

TEST(ViewGrad, SplitGivesZeroForUnusedPieces) {
  Variable x = leaf({5});
  split(x, 2, 0)[1].backward(from_vector<double>({7, 8}, {2}));
  EXPECT_EQ(x.grad().to_vector<double>(), (std::vector<double>{0, 0, 7, 8, 0}));
  EXPECT_TRUE(split(Variable(empty({0}), true), 2, 0).empty());
}

TEST(ViewGrad, CastsTheGradientBack) {
  Variable x = leaf({3}, DType::f32);
  const Variable half = to(x, DType::bf16);
  EXPECT_EQ(half.dtype(), DType::bf16);
  half.backward(from_vector<double>({1, 2, 3}, {3}).to(DType::bf16));
  EXPECT_EQ(x.grad().dtype(), DType::f32);
  EXPECT_EQ(x.grad().to_vector<double>(), (std::vector<double>{1, 2, 3}));
  EXPECT_EQ(to(x, DType::f32).grad_meta(), x.grad_meta());
  EXPECT_FALSE(to(x, DType::i64).requires_grad());
}

TEST(ViewGrad, ErrorsAreThoseOfTheTensor) {
  const Variable x = leaf({2, 3});
  EXPECT_THROW(view(transpose(x, 0, 1), {6}), ShapeError);
  EXPECT_THROW(select(x, 0, 2), IndexError);
  EXPECT_THROW(slice(x, 0, 0, 2, 0), ConfigError);
  EXPECT_THROW(permute(x, {0, 0}), ShapeError);
  EXPECT_THROW(squeeze(x, 0), ShapeError);
}

}  // namespace
}  // namespace weft::autograd
