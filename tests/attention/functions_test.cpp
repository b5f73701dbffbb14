#include "weft/attention/functions.h"

#include "weft/autograd/grad_check.h"
#include "weft/autograd/node.h"

#include "attention_test_data.h"

namespace weft::attention {
namespace {

using autograd::grad_check;
using testing::largest_difference;
using testing::message_of;
using testing::random_tensor;
using testing::same_bits;

Variable leaf(const Shape& shape, uint64_t seed, DType dtype = DType::f64) {
  return Variable(random_tensor(shape, dtype, seed), true);
}

TEST(FlashAttentionFunction, GradientsAgreeWithFiniteDifferences) {
  struct Case {
    int64_t queries, keys, heads, kv_heads, dim, value_dim;
    FlashAttentionOptions options;
  };
  const Case cases[] = {
      {5, 5, 2, 1, 4, 3, {}},   {17, 17, 2, 2, 6, 4, {.window = 5}},
      {3, 20, 4, 2, 8, 6, {}},  {9, 9, 3, 1, 5, 7, {.causal = false, .scale = 0.7}},
      {12, 7, 2, 1, 4, 4, {}},  {1, 1, 1, 1, 2, 2, {}},
      {70, 70, 2, 1, 4, 4, {}}, {4, 70, 2, 1, 4, 4, {.window = 66}},
  };
  for (const Case& c : cases) {
    const auto result = grad_check(
        [&](const std::vector<Variable>& x) {
          return flash_attention(x[0], x[1], x[2], c.options);
        },
        {leaf({2, c.queries, c.heads, c.dim}, 1), leaf({2, c.keys, c.kv_heads, c.dim}, 2),
         leaf({2, c.keys, c.kv_heads, c.value_dim}, 3)},
        {.max_elements = 40});
    EXPECT_TRUE(result) << c.queries << " of " << c.keys << ": " << result.message;
  }
}

TEST(FlashAttentionFunction, DamageToWhatItSavedIsNoticed) {
  Variable q = leaf({1, 4, 1, 4}, 1), k = leaf({1, 4, 1, 4}, 2), v = leaf({1, 4, 1, 4}, 3);
  const Variable o = flash_attention(q, k, v);
  k.mutable_data().fill_(0);
  EXPECT_THROW(o.backward(ones(o.shape(), DType::f64)), AutogradError);
}

TEST(PackedAttention, EqualsItsPartsWithTheirGradient) {
  const QkvSplit split{.heads = 4, .kv_heads = 2, .head_dim = 6, .value_head_dim = 4};
  const Tensor values = random_tensor({2, 11, split.width()}, DType::f64, 9);
  const FlashAttentionOptions options{.window = 7};
  const Qkv parts = split_qkv(values.clone(), split);
  Tensor q = parts.q.contiguous(), k = parts.k.contiguous();
  rope_(q, {.offset = 3});
  rope_(k, {.offset = 3});
  const Tensor expected = flash_attention_forward(q, k, parts.v, options).o;
  const Variable o = packed_attention(Variable(values.clone()), split, 3, 10000, options);
  EXPECT_EQ(o.shape(), (Shape{2, 11, 16}));
  EXPECT_TRUE(same_bits(o.data().view(expected.shape()), expected));

  for (const double theta : {0.0, 10000.0}) {
    const auto result = grad_check(
        [&](const std::vector<Variable>& x) {
          // A product that nothing else reads: packed_attention overwrites it.
          const Variable copy =
              autograd::record("copy", x[0].data().clone(), {x[0]},
                               [](const Tensor& dy) -> std::vector<Tensor> { return {dy}; });
          return packed_attention(copy, split, 3, theta, options);
        },
        {Variable(values, true)});
    EXPECT_TRUE(result) << result.message;
  }
}

TEST(PackedAttention, RefusesAnotherWidth) {
  EXPECT_THROW(packed_attention(Variable(zeros({1, 2, 23})), {.heads = 2, .head_dim = 4}, 0, 0),
               ShapeError);
}

}  // namespace
}  // namespace weft::attention
