#include "weft/attention/kernels/scored_attention.h"

#include <limits>

#include "weft/attention/kernels/latent_attention.h"
#include "weft/tensor/ops/join.h"
#include "weft/tensor/parallel.h"

#include "attention_test_data.h"
#include "block_selection_test_data.h"
#include "reference/block_selection_reference.h"

namespace weft::attention {
namespace {

using testing::compressed_keys;
using testing::expect_matches;
using testing::lists_of;
using testing::message_of;
using testing::random_tensor;
using testing::same_bits;
using testing::scattered;
using testing::tolerance_of;
using Case = testing::BlockSelectionCase;

constexpr DType kDTypes[] = {DType::f64, DType::f32, DType::bf16, DType::f16};

/// The products of q [B, 1, H, D] and k [B, S, G, D] in double, [B][H][S].
std::vector<double> products(const Tensor& q, const Tensor& k) {
  const int64_t batch = q.size(0), heads = q.size(2), dim = q.size(3), keys = k.size(1);
  const int64_t groups = k.size(2);
  const std::vector<double> qs = q.to_vector<double>(), ks = k.to_vector<double>();
  std::vector<double> out;
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t h = 0; h < heads; ++h) {
      const int64_t g = h / (heads / groups);
      for (int64_t s = 0; s < keys; ++s) {
        double sum = 0;
        for (int64_t e = 0; e < dim; ++e)
          sum += qs[(b * heads + h) * dim + e] * ks[((b * keys + s) * groups + g) * dim + e];
        out.push_back(sum);
      }
    }
  }
  return out;
}

void expect_scores(const Tensor& scores, const std::vector<double>& expected, int64_t seen,
                   DType dtype) {
  // Sums of up to 128 products of a few units.
  const double tolerance = dtype == DType::f64 ? 1e-12 : 1e-4;
  const std::vector<double> values = scores.to_vector<double>();
  const int64_t keys = scores.size(2);
  ASSERT_EQ(values.size(), expected.size());
  for (size_t i = 0; i < values.size(); ++i) {
    if (static_cast<int64_t>(i) % keys >= seen) continue;
    ASSERT_NEAR(values[i], expected[i], tolerance) << i;
  }
}

TEST(ScoredAttention, IsAttentionWithItsScores) {
  for (const DType dtype : kDTypes) {
    for (const int64_t keys : {1, 15, 16, 17, 64, 65, 300, 513, 4200}) {
      for (const auto& [heads, groups, dim] : {std::tuple{4, 2, 64}, {3, 1, 9}, {12, 1, 16}}) {
        SCOPED_TRACE(::testing::Message() << to_string(dtype) << " " << keys << " " << heads);
        const Tensor q = random_tensor({2, 1, heads, dim}, dtype, 1);
        const Tensor k = random_tensor({2, keys, groups, dim}, dtype, 2);
        const Tensor v = random_tensor({2, keys, groups, 24}, dtype, 3);
        const ScoredAttentionOutput out = scored_attention_forward(q, scattered(k), v, {});
        const FlashAttentionOutput expected = flash_attention_forward(q, k, v);
        EXPECT_TRUE(same_bits(out.o, expected.o));
        EXPECT_TRUE(same_bits(out.lse, expected.lse));
        EXPECT_EQ(out.scores.shape(), (Shape{2, heads, keys}));
        expect_scores(out.scores, products(q, k), keys, dtype);
      }
    }
  }
}

TEST(ScoredAttention, ScoresTheKeysThatAreSeen) {
  const Tensor q = random_tensor({1, 1, 2, 32}, DType::f32, 1);
  const Tensor k = random_tensor({1, 90, 1, 32}, DType::f32, 2);
  const FlashAttentionOptions options{.position = 200, .key_length = 8, .key_stride = 4};
  const ScoredAttentionOutput out = scored_attention_forward(q, k, k, options);
  EXPECT_TRUE(same_bits(out.o, flash_attention_forward(q, k, k, options).o));
  expect_scores(out.scores, products(q, k), (200 + 1 - 8) / 4 + 1, DType::f32);
}

TEST(ScoredAttention, JoinsBothPartsOfLatents) {
  for (const DType dtype : kDTypes) {
    for (const auto& [keys, rope_dim] : {std::pair{1, 8}, {130, 6}, {700, 32}, {65, 0}}) {
      SCOPED_TRACE(::testing::Message() << to_string(dtype) << " " << keys << " " << rope_dim);
      const Tensor q = random_tensor({2, 1, 8, 48}, dtype, 1);
      const Tensor q_rope = random_tensor({2, 1, 8, rope_dim}, dtype, 2);
      const Tensor latents = random_tensor({2, keys, 2, 48}, dtype, 3);
      const Tensor rope_keys = random_tensor({2, keys, 1, rope_dim}, dtype, 4);
      const FlashAttentionOptions options{.scale = 0.2};
      const auto out = scored_latent_attention_forward(q, q_rope, latents, rope_keys, options);
      const auto expected = latent_attention_forward(q, q_rope, latents, rope_keys, options);
      EXPECT_TRUE(same_bits(out.o, expected.o));
      EXPECT_TRUE(same_bits(out.lse, expected.lse));
      const Tensor joined = cat({latents, rope_keys.expand({2, keys, 2, rope_dim})}, 3);
      expect_scores(out.scores, products(cat({q, q_rope}, 3), joined), keys, dtype);
    }
  }
}

TEST(SelectBlocksByScores, MatchesOracle) {
  std::vector<Case> cases;
  for (const int64_t tokens : {1, 3, 4, 17, 64, 65, 600}) {
    cases.push_back({2, tokens, 4, 2, 16, {4, 2, 8, 3, 1, 1}});
    cases.push_back({1, tokens, 3, 1, 5, {4, 4, 4, 4, 1, 2}});
    cases.push_back({3, tokens, 2, 2, 16, {16, 16, 16, 8, 1, 2}});
  }
  for (const auto& [l, d, block] :
       {std::tuple{1, 1, 1}, {5, 1, 5}, {3, 1, 4}, {6, 3, 12}, {32, 16, 64}, {12, 4, 12}}) {
    cases.push_back({1, 1400, 4, 1, 12, {l, d, block, 6, 1, 2}});
    cases.push_back({2, 700, 2, 2, 7, {l, d, block, 3, 0, 1}});
    cases.push_back({1, 1301, 8, 1, 12, {l, d, block, 16, 3, 2}});
  }
  for (const int64_t heads : {1, 5, 8, 9, 17, 70})
    cases.push_back({1, 300, heads, 1, 9, {2, 2, 2, 5, 1, 1}});
  cases.push_back({1, 400, 2, 1, 8, {2, 1, 2, 199, 0, 1}});
  cases.push_back({9, 2100, 8, 8, 4, {4, 2, 4, 8, 5, 1}});
  for (Case c : cases) {
    for (const DType dtype : kDTypes) {
      c.dtype = dtype;
      SCOPED_TRACE(::testing::PrintToString(c));
      const BlockSelectionOptions& o = c.options;
      const int64_t keys = c.queries, position = keys - 1;
      const int64_t count = compressed_keys(keys, o);
      const Tensor q = random_tensor({c.batch, 1, c.heads, c.dim}, dtype, 1, 2);
      const Tensor k = random_tensor({c.batch, count, c.groups, c.dim}, dtype, 2);
      BlockSelectionOptions options = o;
      options.scale = 0.3;
      const ScoredAttentionOutput attention =
          scored_attention_forward(q, k, k,
                                   {.scale = options.scale,
                                    .position = position,
                                    .key_length = o.compression_block,
                                    .key_stride = o.compression_stride});
      const Selection selection =
          select_blocks_by_scores(attention, c.groups, position, keys, options);
      const auto expected = reference::select_blocks(q, k, position, keys, options);
      expect_matches(selection, expected, tolerance_of(c), options, "");
      // In any layout.
      const Tensor lse = attention.lse.transpose(0, 1).contiguous().transpose(0, 1);
      EXPECT_EQ(lists_of(select_blocks_by_scores({{}, lse, attention.scores.clone()}, c.groups,
                                                 position, keys, options)),
                lists_of(selection));
    }
  }
}

TEST(SelectBlocksByScores, DoesNotDependOnTheNumberOfThreads) {
  const Tensor q = random_tensor({3, 1, 8, 32}, DType::f32, 1);
  const Tensor k = random_tensor({3, 2000, 4, 32}, DType::f32, 2);
  const BlockSelectionOptions options{.count = 9, .scale = 0.2};
  const int threads = num_threads();
  const auto select = [&] {
    return lists_of(select_blocks_by_scores(
        scored_attention_forward(
            q, k, k, {.scale = 0.2, .position = 31999, .key_length = 16, .key_stride = 16}),
        4, 31999, 32000, options));
  };
  set_num_threads(1);
  const auto expected = select();
  for (const int n : {2, 3, 7}) {
    set_num_threads(n);
    EXPECT_EQ(select(), expected) << n;
  }
  set_num_threads(threads);
}

TEST(ScoredAttention, RefusesWhatItCannotDo) {
  const Tensor x = zeros({1, 2, 2, 4});
  EXPECT_FALSE(can_keep_scores(x));
  EXPECT_TRUE(can_keep_scores(x.slice(1, 0, 1)));
  EXPECT_EQ(message_of<NotImplementedError>([&] { scored_attention_forward(x, x, x, {}); }),
            "scored_attention: takes one query a sequence, on the CPU, got q [1, 2, 2, 4] f32 cpu");
  message_of<ShapeError>([&] {
    scored_attention_forward(x.slice(1, 0, 1), x, zeros({1, 3, 2, 4}), {});
  });
  message_of<ConfigError>([&] {
    scored_latent_attention_forward(x.slice(1, 0, 1), x.slice(1, 0, 1), x, x.slice(2, 0, 1), {});
  });

  const Tensor scores = zeros({1, 2, 3}), lse = zeros({1, 2, 1});
  const auto select = [&](const ScoredAttentionOutput& attention, int64_t groups, int64_t position,
                          const BlockSelectionOptions& options) {
    return select_blocks_by_scores(attention, groups, position, 48, options);
  };
  const BlockSelectionOptions good{.scale = 1.0};
  EXPECT_EQ(select({{}, lse, scores}, 1, 47, good).total(), 3);
  EXPECT_EQ(message_of<ShapeError>([&] {
              select({{}, scores, scores}, 1, 47, good);
            }),
            "select_blocks_by_scores: scores must be [B, H, Nc] and lse [B, H, 1], got [1, 2, 3] "
            "f32 cpu and [1, 2, 3] f32 cpu");
  EXPECT_EQ(message_of<ShapeError>([&] {
              select({{}, lse, scores}, 3, 47, good);
            }),
            "select_blocks_by_scores: the 2 query heads must be a multiple of the 3 groups");
  EXPECT_EQ(message_of<ConfigError>([&] {
              select({{}, lse, scores}, 1, 47, {});
            }),
            "select_blocks_by_scores: scale must be set");
  EXPECT_EQ(message_of<ConfigError>([&] {
              select({{}, lse, scores}, 1, 47, {.query_tile = 4, .scale = 1.0});
            }),
            "select_blocks_by_scores: position must be the first of a run of 4 among the 48 keys, "
            "got 47");
  message_of<ConfigError>([&] { select({{}, lse, scores}, 1, 48, good); });
  message_of<ConfigError>([&] { select({{}, lse, scores}, 1, 47, {.count = 0, .scale = 1.0}); });
  message_of<DTypeError>([&] { select({{}, lse, zeros({1, 2, 3}, DType::bf16)}, 1, 47, good); });
}

}  // namespace
}  // namespace weft::attention
