#include "weft/autograd/functions/pool.h"

#include <gtest/gtest.h>

#include "weft/autograd/grad_check.h"

#include "random_tensor.h"

namespace weft::autograd {
namespace {

using test::random_tensor;

Variable leaf(const Shape& shape, uint64_t seed) {
  return Variable(random_tensor(shape, DType::f64, seed), /*requires_grad=*/true);
}

TEST(PoolGrad, AgreesWithDifferences) {
  const Pool2dOptions options[] = {
      {},
      {.kernel = {3, 2}, .stride = {1, 2}},
      {.kernel = {3, 3}, .stride = {2, 1}, .padding = {1, 1}},
      {.kernel = {3, 3}, .stride = {1, 1}, .padding = {1, 1}, .count_padding = false}};
  for (const Pool2dOptions& option : options) {
    using Inputs = std::vector<Variable>;
    const auto mean = grad_check([&](const Inputs& in) { return avg_pool2d(in[0], option); },
                                 {leaf({2, 2, 5, 6}, 1)});
    EXPECT_TRUE(mean) << mean.message;
    const auto largest = grad_check([&](const Inputs& in) { return max_pool2d(in[0], option); },
                                    {leaf({2, 2, 5, 6}, 2)});
    EXPECT_TRUE(largest) << largest.message;
  }
}

TEST(PoolGrad, OneAxisAgreesWithDifferences) {
  using Inputs = std::vector<Variable>;
  const Pool1dOptions options{.kernel = 3, .stride = 2, .padding = 1};
  const auto mean = grad_check([&](const Inputs& in) { return avg_pool1d(in[0], options); },
                               {leaf({2, 3, 8}, 1)});
  EXPECT_TRUE(mean) << mean.message;
  const auto largest = grad_check([&](const Inputs& in) { return max_pool1d(in[0], options); },
                                  {leaf({2, 3, 8}, 2)});
  EXPECT_TRUE(largest) << largest.message;
}

}  // namespace
}  // namespace weft::autograd
