#include "weft/autograd/functions/topk.h"

#include <gtest/gtest.h>

#include "weft/autograd/grad_check.h"

#include "random_tensor.h"

namespace weft::autograd {
namespace {

TEST(TopKGrad, MatchesDifferences) {
  for (int axis : {0, 1, -1}) {
    for (int64_t k : {1, 3, 5}) {
      const auto result =
          grad_check([&](const std::vector<Variable>& v) { return topk(v[0], k, axis).values; },
                     {Variable(test::random_tensor({5, 6, 7}, DType::f64), true)});
      EXPECT_TRUE(result) << axis << " " << k << ": " << result.message;
    }
  }
}

TEST(TopKGrad, GoesToTheChosenOfEquals) {
  Variable x(from_vector<double>({1, 2, 2, 2}, {4}), true);
  const TopK found = topk(x, 2);
  EXPECT_EQ(found.indices.to_vector<int64_t>(), (std::vector<int64_t>{1, 2}));
  found.values.backward(from_vector<double>({10, 20}, {2}));
  EXPECT_EQ(x.grad().to_vector<double>(), (std::vector<double>{0, 10, 20, 0}));
}

}  // namespace
}  // namespace weft::autograd
