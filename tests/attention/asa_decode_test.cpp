// Decoding with the global layer of alternating sparse attention, its cache and its costs.
#include "weft/attention/asa_cache.h"

#include "asa_test_data.h"
#include "cost_formula.h"

namespace weft::attention {
namespace {

using testing::make_asa;
using testing::random_tensor;
using testing::same_bits;
using testing::small_asa;

TEST(AsaGlobal, CountsFlopsAndCacheBytes) {
  const auto layer = make_asa(small_asa());  // E 20, H 4, G 2, Dn 6, Dv 5, Dc 7, Dr 4
  // 21 tokens: blocks of 4 at 0, 2, ..., 16, seen by 18, 16, ..., 2 queries; 8 + 8 + 5 tokens in
  // blocks of 8, whose tokens read 0, 1 and 2 whole blocks besides their own.
  const double compressed = 90, selected = 36 + (8 * 8 + 36) + (5 * 16 + 15);
  const nn::MixerCost cost = layer->forward_cost(21);
  EXPECT_DOUBLE_EQ(cost.projection_flops, 21 * (2.0 * 20 * (4 * 10 + 2 * 7 + 4) + 2.0 * 7 * 4 * 11 +
                                                2.0 * 4 * 5 * 20 + 2.0 * 20 * 8));
  EXPECT_DOUBLE_EQ(cost.core_flops, 2.0 * 4 * (10 + 5) * (compressed + selected) +
                                        2.0 * 4 * (7 + 4) * compressed / 4 + 9 * (2 * 7 + 4) * 4);
  EXPECT_DOUBLE_EQ(
      layer->step_cost(20).core_flops,
      2.0 * 4 * (2 * 7 + 4) * (9 + 21) + 2.0 * 4 * (7 + 4) * 9 / 4 + (2 * 7 + 4) * 4 / 2.0);
  EXPECT_EQ(layer->cache_bytes(100, DType::bf16),
            ((100 + 49) * (2 * 7 + 4) + 4 * 4) * 2 + 2 * 3 * 4);
  for (const int64_t capacity : {1, 3, 4, 5, 100}) {
    EXPECT_EQ(layer->make_cache(3, capacity, DType::f32, kCpu)->bytes(),
              3 * layer->cache_bytes(capacity, DType::f32));
  }
}

TEST(AsaGlobal, FormulasGiveItsCosts) {
  const auto layer = make_asa(small_asa());
  // Pairs by counting, over 45 tokens and for token 44.
  double blocks = 0, pairs = 0, keys = 0, last_blocks = 0, last_keys = 0;
  for (int64_t t = 0; t < 45; ++t) {
    last_blocks = last_keys = 0;
    for (int64_t i = 0; i * 2 + 3 <= t; ++i) last_blocks += 1;
    const int64_t own = t / 8, read = std::min<int64_t>(own + 1, 3);
    last_keys = static_cast<double>((read - 1) * 8 + t % 8 + 1);
    blocks = last_blocks;
    pairs += last_blocks;
    keys += last_keys;
  }
  const std::map<std::string, double> symbols = {
      {"T", 45},        {"E", 20}, {"H", 4},      {"Dv", 5},      {"s", 2},    {"G", 2},
      {"Dc", 7},        {"Dn", 6}, {"Dr", 4},     {"Q", 20 * 40}, {"l", 4},    {"d", 2},
      {"n", 3},         {"r", 4},  {"B", blocks}, {"P", pairs},   {"K", keys}, {"Bs", last_blocks},
      {"Ks", last_keys}};
  const auto formula = [&](const char* of) {
    return testing::cost_by_formula(asa_global_mechanism(), of, symbols);
  };
  const nn::MixerCost forward = layer->forward_cost(45), step = layer->step_cost(44);
  EXPECT_DOUBLE_EQ(formula("forward, projections (FLOPs)"), forward.projection_flops);
  EXPECT_DOUBLE_EQ(
      formula("forward, attention (FLOPs)") + formula("forward, choice of blocks (FLOPs)"),
      forward.core_flops);
  EXPECT_DOUBLE_EQ(formula("backward, projections (FLOPs)"), 2 * forward.projection_flops);
  EXPECT_DOUBLE_EQ(formula("decoding one token, projections (FLOPs)"), step.projection_flops);
  EXPECT_DOUBLE_EQ(formula("decoding one token, attention (FLOPs)") +
                       formula("decoding one token, choice (FLOPs)"),
                   step.core_flops);
  // 1000 tokens complete 999 / 2 blocks of 4, one less than 1000 / 2.
  EXPECT_DOUBLE_EQ(1000 * formula("cache per token kept (bytes)") +
                       formula("cache besides (bytes)") - (2 * 7 + 4) * 2,
                   static_cast<double>(layer->cache_bytes(1000, DType::bf16)));
}

TEST(AsaGlobal, KeepsTheBlocksThatAreComplete) {
  const AsaCacheOptions options{.blocks = {.block = 4, .stride = 2},
                                .groups = 2,
                                .latent_dim = 3,
                                .rope_dim = 2,
                                .select_count = 3,
                                .query_run = 4,
                                .select_block = 8};
  AsaCache cache(1, 40, options, DType::f32, kCpu);
  const Tensor latents = random_tensor({1, 40, 2, 3}, DType::f32, 1);
  const Tensor keys = random_tensor({1, 40, 1, 2}, DType::f32, 2);
  for (int64_t t = 0; t < 40; ++t) {
    const auto rows =
        cache.append(latents.slice(1, t, t + 1), keys.slice(1, t, t + 1), keys.slice(1, t, t + 1));
    const int64_t complete = t < 3 ? 0 : (t + 1 - 4) / 2 + 1;
    EXPECT_EQ(rows.latents.size(1), complete > cache.complete_blocks() ? 4 : 0) << t;
    EXPECT_EQ(rows.rope_keys.size(1), rows.latents.size(1)) << t;
    if (rows.latents.size(1) > 0) {
      EXPECT_TRUE(same_bits(rows.latents, latents.slice(1, t - 3, t + 1))) << t;
      EXPECT_TRUE(same_bits(rows.rope_keys, keys.slice(1, t - 3, t + 1))) << t;
      cache.append_blocks(rows.latents.slice(1, 0, 1), rows.rope_keys.slice(1, 0, 1));
    }
    EXPECT_EQ(cache.complete_blocks(), complete);
    EXPECT_EQ(cache.blocks().latents.size(1), complete);
    EXPECT_EQ(cache.tokens().latents.size(1), t + 1);
  }
  EXPECT_THROW(cache.append(latents.slice(1, 0, 1), keys.slice(1, 0, 1), keys.slice(1, 0, 1)),
               ShapeError);
}

TEST(AsaGlobal, DecodesInLowPrecision) {
  // All blocks are read, so that rounding chooses none.
  AsaGlobalOptions options = small_asa();
  options.select_count = 8;
  testing::expect_decodes_in_bf16(*make_asa(options), random_tensor({2, 45, 20}, DType::bf16, 1));
}

}  // namespace
}  // namespace weft::attention
