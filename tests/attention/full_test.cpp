#include "weft/attention/full.h"

#include <algorithm>

#include <gmock/gmock.h>

#include "weft/autograd/functions/linear.h"
#include "weft/tensor/allocator.h"
#include "weft/tensor/ops/matmul.h"
#include "weft/tensor/ops/rope.h"

#include "attention_test_data.h"
#include "cost_formula.h"
#include "reference/attention_reference.h"

namespace weft::attention {
namespace {

using testing::largest_difference;
using testing::message_of;
using testing::random_tensor;
using testing::same_bits;

std::unique_ptr<FullAttention> make_full(const FullAttentionOptions& options) {
  Generator generator(7);
  return std::make_unique<FullAttention>(options, generator);
}

TEST(FullAttention, ComputesItsDefinition) {
  for (const int64_t kv_heads : {1, 2, 4}) {
    for (const double theta : {0.0, 10000.0}) {
      const auto layer = make_full({.d_model = 20,
                                    .n_heads = 4,
                                    .n_kv_heads = kv_heads,
                                    .head_dim = 6,
                                    .rope_theta = theta,
                                    .init_std = 0.5});
      layer->to(DType::f64);
      const Tensor x = random_tensor({2, 23, 20}, DType::f64, 1);
      const auto project = [&](const char* name, int64_t heads) {
        return matmul(x, layer->parameter(name).data(), {.transpose_b = true})
            .view({2, 23, heads, 6});
      };
      Tensor q = project("q_proj.weight", 4), k = project("k_proj.weight", kv_heads);
      const Tensor v = project("v_proj.weight", kv_heads);
      if (theta > 0) {
        q = rope(q, {.theta = theta, .offset = 5});
        k = rope(k, {.theta = theta, .offset = 5});
      }
      const Tensor o = reference::attention_forward(q, k, v, {}).o.view({2, 23, 24});
      const Tensor expected =
          matmul(o, layer->parameter("o_proj.weight").data(), {.transpose_b = true});
      const Variable y = layer->forward(Variable(x), {.position = 5});
      EXPECT_LE(largest_difference(y.data(), expected), 1e-12) << kv_heads << " " << theta;
    }
  }
}

TEST(FullAttention, PositionsAreRelative) {
  const auto layer = make_full({.d_model = 16, .n_heads = 2, .init_std = 0.5});
  layer->to(DType::f64);
  const Variable x(random_tensor({1, 12, 16}, DType::f64, 1));
  EXPECT_LE(largest_difference(layer->forward(x, {.position = 0}).data(),
                               layer->forward(x, {.position = 1000}).data()),
            1e-10);
}

TEST(FullAttention, NamesAndSizesFollowLlama) {
  const auto layer = make_full({.d_model = 32, .n_heads = 8, .n_kv_heads = 2});
  std::vector<std::string> names;
  for (const auto& [name, parameter] : layer->named_parameters())
    names.push_back(name + " " + to_string(parameter.shape()));
  EXPECT_THAT(names, ::testing::ElementsAre("q_proj.weight [32, 32]", "k_proj.weight [8, 32]",
                                            "v_proj.weight [8, 32]", "o_proj.weight [32, 32]"));
}

TEST(FullAttention, CountsFlopsAndCacheBytes) {
  const auto layer = make_full({.d_model = 32, .n_heads = 8, .n_kv_heads = 2});  // head_dim 4
  const nn::MixerCost cost = layer->forward_cost(10);
  // Per token 2 E (H D + 2 Hk D) + 2 H D E; pairs 10 * 11 / 2, each 2 H (D + D).
  EXPECT_DOUBLE_EQ(cost.projection_flops, 10 * (2.0 * 32 * (32 + 16) + 2.0 * 32 * 32));
  EXPECT_DOUBLE_EQ(cost.core_flops, 55 * 2.0 * 8 * 8);
  EXPECT_DOUBLE_EQ(layer->step_cost(9).core_flops, 10 * 2.0 * 8 * 8);
  EXPECT_EQ(layer->cache_bytes(100, DType::bf16), 100 * 2 * 8 * 2);
}

TEST(FullAttention, FormulasGiveItsCosts) {
  for (const int64_t window : {0, 4, 9, 10, 30}) {
    SCOPED_TRACE(window);
    const auto layer =
        make_full({.d_model = 24, .n_heads = 6, .n_kv_heads = 2, .head_dim = 8, .window = window});
    const auto seen = static_cast<double>(std::min<int64_t>(window, 10));
    const std::map<std::string, double> symbols = {{"T", 10},   {"S", 9},   {"E", 24}, {"H", 6},
                                                   {"Hk", 2},   {"D", 8},   {"Dv", 8}, {"s", 2},
                                                   {"M", seen}, {"N", seen}};
    const auto formula = [&](const char* of) {
      return testing::cost_by_formula(window == 0 ? full_mechanism() : swa_mechanism(), of,
                                      symbols);
    };
    const nn::MixerCost forward = layer->forward_cost(10);
    EXPECT_DOUBLE_EQ(formula("forward, projections (FLOPs)"), forward.projection_flops);
    EXPECT_DOUBLE_EQ(formula("forward, attention (FLOPs)"), forward.core_flops);
    EXPECT_DOUBLE_EQ(formula("backward, projections (FLOPs)"), 2 * forward.projection_flops);
    // Five products of the same size instead of two: the scores are computed again.
    EXPECT_DOUBLE_EQ(formula("backward, attention (FLOPs)"), 2.5 * forward.core_flops);
    const nn::MixerCost step = layer->step_cost(9);
    EXPECT_DOUBLE_EQ(formula("decoding one token, projections (FLOPs)"), step.projection_flops);
    EXPECT_DOUBLE_EQ(formula("decoding one token, attention (FLOPs)"), step.core_flops);
    EXPECT_DOUBLE_EQ(formula("cache per token kept (bytes)"),
                     static_cast<double>(layer->cache_bytes(1, DType::bf16)));
  }
}

TEST(FullAttention, WeightsOfOtherStoragesGiveTheSame) {
  const auto layer = make_full({.d_model = 16, .n_heads = 2, .init_std = 0.3});
  const Variable x(random_tensor({1, 12, 16}, DType::f32, 1));
  const Tensor packed = layer->forward(x, {}).data();
  Variable k = layer->parameter("k_proj.weight");
  k.set_data(k.data().clone());  // no longer behind q_proj in memory
  EXPECT_LE(largest_difference(layer->forward(x, {}).data(), packed), 1e-6);
}

TEST(FullAttention, RefusesWhatDoesNotFit) {
  const auto message = [](const FullAttentionOptions& options) {
    return message_of<ConfigError>([&] { make_full(options); });
  };
  EXPECT_EQ(message({.d_model = 30, .n_heads = 4}),
            "full attention: d_model (30) must be a multiple of n_heads (4) unless head_dim is "
            "given");
  EXPECT_EQ(message({.d_model = 32, .n_heads = 4, .n_kv_heads = 3}),
            "full attention: n_heads (4) must be a multiple of n_kv_heads (3)");
  EXPECT_EQ(message({.d_model = 12, .n_heads = 4}),
            "full attention: head_dim must be even for rotary positions, got 3");
  EXPECT_NO_THROW(make_full({.d_model = 12, .n_heads = 4, .rope_theta = 0}));
  message({.d_model = 0});
  message({.n_heads = 0});
  message({.n_heads = 4, .n_kv_heads = -1});
  message({.head_dim = -2});
  message({.rope_theta = -1});
  message({.init_std = 0});

  const auto layer = make_full({.d_model = 16, .n_heads = 2});
  const auto cache = layer->make_cache(1, 4, DType::bf16, kCpu);
  EXPECT_NE(message_of<DTypeError>([&] {
              layer->prefill(Variable(zeros({1, 2, 16})), *cache);
            }).find("made for bf16"),
            std::string::npos);
  message_of<ConfigError>([&] { layer->make_cache(1, 0, DType::f32, kCpu); });
}

TEST(FullAttention, RecomputedProjectionsGiveTheSameBits) {
  for (const int64_t window : {0, 9}) {
    for (const double theta : {0.0, 10000.0}) {
      for (const DType dtype : {DType::f32, DType::bf16}) {
        const auto layer = make_full({.d_model = 32,
                                      .n_heads = 4,
                                      .n_kv_heads = 2,
                                      .rope_theta = theta,
                                      .window = window,
                                      .init_std = 0.5});
        const Variable x(random_tensor({2, 23, 32}, dtype, 1), true);
        const Tensor dy = random_tensor({2, 23, 32}, dtype, 2);
        std::vector<std::vector<float>> expected;
        int64_t most = 0;
        for (const bool recompute : {false, true}) {
          const int64_t start = allocator(kCpu).stats().allocated;
          const Variable y = layer->forward(x, {.position = 5, .recompute = recompute});
          const int64_t kept = allocator(kCpu).stats().allocated - start;
          for (int time = 0; time < 2; ++time) y.backward(dy, /*retain_graph=*/true);
          std::vector<Variable> leaves = layer->parameters();
          leaves.push_back(x);
          std::vector<std::vector<float>> grads = {y.data().to_vector<float>()};
          for (Variable& leaf : leaves) {
            grads.push_back(leaf.grad().to_vector<float>());
            leaf.zero_grad();
          }
          if (!recompute) {
            expected = grads;
            most = kept;
          } else {
            EXPECT_EQ(grads, expected) << window << " " << theta << " " << to_string(dtype);
            EXPECT_LE(kept, most - 2 * 23 * 64 * static_cast<int64_t>(size_of(dtype)));
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace weft::attention
