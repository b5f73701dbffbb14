#include "weft/autograd/functions/rope.h"

#include <gtest/gtest.h>

#include "weft/autograd/grad_check.h"
#include "weft/autograd/node.h"
#include "weft/tensor/error.h"

#include "random_tensor.h"

namespace weft::autograd {
namespace {

using Inputs = std::vector<Variable>;

Variable leaf(const Shape& shape, uint64_t seed, DType dtype = DType::f64) {
  return Variable(test::random_tensor(shape, dtype, seed), /*requires_grad=*/true);
}

TEST(RopeGrad, AgreesWithDifferences) {
  const RopeOptions options[] = {
      {},
      {.rotary_begin = 1, .rotary_dim = 4, .offset = 17},
      {.theta = 50, .positions = from_vector<int64_t>({4, 0, 9, 4, 1, 1}, {2, 3})}};
  for (const RopeOptions& option : options) {
    const auto result =
        grad_check([&](const Inputs& in) { return rope(in[0], option); }, {leaf({2, 3, 2, 6}, 1)});
    EXPECT_TRUE(result) << result.message;
  }
}

TEST(RopeGrad, PackedFormsAgreeWithDifferences) {
  const QkvSplit split{.heads = 2, .kv_heads = 1, .head_dim = 4, .value_head_dim = 3};
  using Function = std::function<Inputs(const Inputs&)>;
  const Function turned = [&](const Inputs& in) -> Inputs {
    const auto [q, k, v] = rope_qkv(in[0], split, {.offset = 2});
    return {q, k, v};
  };
  const Function plain = [&](const Inputs& in) -> Inputs {
    const auto [q, k, v] = split_qkv(in[0], split);
    return {q, k, v};
  };
  const Function no_keys = [&](const Inputs& in) -> Inputs {
    const auto [q, k, v] = rope_qkv(in[0], split);
    return {q, v};
  };
  for (const Function& function : {turned, plain, no_keys}) {
    const auto result = grad_check(function, {leaf({2, 3, split.width()}, 1)});
    EXPECT_TRUE(result) << result.message;
  }
}

TEST(RopeGrad, NoticesChangedPositionsAndNothingElse) {
  Variable x = leaf({1, 3, 1, 4}, 1, DType::f32);
  Tensor positions = arange(0, 3);
  const Variable y = rope(x, {.positions = positions});
  x.mutable_data().zero_();
  EXPECT_NO_THROW(y.backward(ones({1, 3, 1, 4}), /*retain_graph=*/true));
  positions.fill_(1);
  EXPECT_THROW(y.backward(ones({1, 3, 1, 4})), AutogradError);
}

}  // namespace
}  // namespace weft::autograd
