#include "weft/tensor/ops/arithmetic.h"

#include <gtest/gtest.h>

#include "weft/tensor/error.h"

namespace weft {
namespace {

TEST(Arithmetic, AddBroadcasts) {
  const Tensor a = from_vector<float>({1, 2, 3, 4, 5, 6}, {2, 3});
  const Tensor b = from_vector<float>({10, 20}, {2, 1});
  EXPECT_EQ(add(a, b).to_vector<float>(), (std::vector<float>{11, 12, 13, 24, 25, 26}));
}

}  // namespace
}  // namespace weft
