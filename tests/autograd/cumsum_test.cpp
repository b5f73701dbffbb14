#include "weft/autograd/functions/cumsum.h"

#include <gtest/gtest.h>

#include "weft/autograd/grad_check.h"

#include "random_tensor.h"

namespace weft::autograd {
namespace {

TEST(CumsumGrad, MatchesDifferences) {
  for (int axis : {0, 1, -1}) {
    for (int options = 0; options < 4; ++options) {
      const auto result = grad_check(
          [&](const std::vector<Variable>& v) {
            return cumsum(v[0], axis, (options & 1) != 0, (options & 2) != 0);
          },
          {Variable(test::random_tensor({3, 5, 4}, DType::f64), true)});
      EXPECT_TRUE(result) << axis << " " << options << ": " << result.message;
    }
  }
}

}  // namespace
}  // namespace weft::autograd
