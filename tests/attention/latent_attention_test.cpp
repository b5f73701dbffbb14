#include "weft/attention/kernels/latent_attention.h"

#include "weft/tensor/ops/join.h"
#include "weft/tensor/parallel.h"

#include "attention_test_data.h"
#include "reference/attention_reference.h"

namespace weft::attention {
namespace {

using testing::largest_difference;
using testing::message_of;
using testing::random_tensor;
using testing::same_bits;
using testing::scattered;

struct Case {
  int64_t batch, queries, keys, heads, groups, latent_dim, rope_dim;
  FlashAttentionOptions options{};
};

void PrintTo(const Case& c, std::ostream* out) {
  *out << "B" << c.batch << " T" << c.queries << " S" << c.keys << " H" << c.heads << " G"
       << c.groups << " Dc" << c.latent_dim << " Dr" << c.rope_dim << " window" << c.options.window
       << " position" << c.options.position.value_or(-1) << " key " << c.options.key_length << "/"
       << c.options.key_stride;
}

struct Data {
  Data(const Case& c, DType dtype)
      : q_latent(random_tensor({c.batch, c.queries, c.heads, c.latent_dim}, dtype, 1)),
        q_rope(random_tensor({c.batch, c.queries, c.heads, c.rope_dim}, dtype, 2)),
        latents(random_tensor({c.batch, c.keys, c.groups, c.latent_dim}, dtype, 3)),
        rope_keys(random_tensor({c.batch, c.keys, 1, c.rope_dim}, dtype, 4)) {}
  Tensor q() const { return cat({q_latent, q_rope}, 3); }
  Tensor k() const {
    const Shape& s = latents.shape();
    return cat({latents, rope_keys.expand({s[0], s[1], s[2], rope_keys.size(3)})}, 3);
  }
  Tensor q_latent, q_rope, latents, rope_keys;
};

FlashAttentionOutput run(const Data& x, FlashAttentionOptions options) {
  options.scale = 0.2;
  return latent_attention_forward(x.q_latent, x.q_rope, x.latents, x.rope_keys, options);
}

class LatentAttentionShapes : public ::testing::TestWithParam<Case> {};

TEST_P(LatentAttentionShapes, MatchesOracle) {
  const Case& c = GetParam();
  FlashAttentionOptions options = c.options;
  options.scale = 0.2;
  for (const auto& [dtype, tolerance] : {std::pair{DType::f64, 1e-12},
                                         {DType::f32, 1e-5},
                                         {DType::bf16, 2e-2},
                                         {DType::f16, 5e-3}}) {
    const Data x(c, dtype);
    const auto out = run(x, c.options);
    const auto expected = reference::attention_forward(x.q(), x.k(), x.latents, options);
    EXPECT_LE(largest_difference(out.o, expected.o), tolerance) << to_string(dtype);
    EXPECT_LE(largest_difference(out.lse, expected.lse), tolerance) << to_string(dtype);
  }
}

std::vector<Case> shape_cases() {
  std::vector<Case> cases;
  for (const int64_t keys : {1, 2, 15, 16, 17, 64, 65, 511, 513, 1100}) {
    cases.push_back({2, 1, keys, 4, 1, 32, 8});
    cases.push_back({1, 1, keys, 4, 2, 20, 12, {.window = 40}});
    cases.push_back({1, std::min<int64_t>(keys, 3), keys, 6, 3, 17, 5});
  }
  for (const int64_t heads : {1, 2, 3, 5, 8, 16, 32})
    cases.push_back({1, 1, 150, heads, 1, 64, 32});
  for (const int64_t dim : {1, 16, 48, 64, 100, 128, 256})
    cases.push_back({1, 1, 70, 4, 1, dim, 16});
  cases.push_back({1, 1, 70, 4, 1, 64, 0});
  cases.push_back({1, 40, 40, 4, 2, 16, 8});
  cases.push_back({1, 40, 90, 4, 2, 16, 8, {.window = 7}});
  cases.push_back({1, 1, 5, 4, 2, 16, 8, {.position = 80, .key_length = 16, .key_stride = 16}});
  cases.push_back({1, 1, 5, 4, 2, 16, 8, {.position = 60, .key_length = 32, .key_stride = 16}});
  cases.push_back({1, 1, 5, 4, 2, 16, 8, {.position = 3, .key_length = 16, .key_stride = 16}});
  cases.push_back({1, 2, 0, 4, 2, 16, 8});
  return cases;
}
INSTANTIATE_TEST_SUITE_P(All, LatentAttentionShapes, ::testing::ValuesIn(shape_cases()));

TEST(LatentAttention, SelectedMatchesOracle) {
  for (const int64_t queries : {1, 3, 40}) {
    const Case c{2, queries, 200, 8, 2, 32, 16};
    const SelectionShape shape{.batch = 2,
                               .groups = 2,
                               .queries = queries,
                               .keys = 200,
                               .position = 200 - queries,
                               .query_tile = 4};
    std::vector<std::vector<int32_t>> lists;
    for (int64_t i = 0; i < shape.lists(); ++i) {
      const auto n = static_cast<int32_t>(i);
      lists.push_back({n % 3, 3 + n % 4, 9, 12});
    }
    const Selection selection = Selection::from_lists(shape, lists);
    for (const auto& [dtype, tolerance] : {std::pair{DType::f64, 1e-12}, {DType::f32, 1e-5}}) {
      const Data x(c, dtype);
      const auto out = selected_latent_attention_forward(x.q_latent, x.q_rope, x.latents,
                                                         x.rope_keys, selection, {.scale = 0.2});
      const auto expected =
          reference::selected_attention_forward(x.q(), x.k(), x.latents, selection, {.scale = 0.2});
      EXPECT_LE(largest_difference(out.o, expected.o), tolerance) << queries;
      EXPECT_LE(largest_difference(out.lse, expected.lse), tolerance) << queries;
    }
  }
}

TEST(LatentAttention, ThreadsAndStridesDoNotChangeBits) {
  const int threads = num_threads();
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const Case c{1, 1, 3000, 8, 2, 64, 16};
    const Data x(c, dtype);
    set_num_threads(1);
    const auto one = run(x, {});
    for (const int count : {2, 5}) {
      set_num_threads(count);
      EXPECT_TRUE(same_bits(run(x, {}).o, one.o)) << count;
    }
    set_num_threads(threads);
    Data y = x;
    y.q_latent = scattered(x.q_latent);
    y.q_rope = scattered(x.q_rope);
    y.latents = scattered(x.latents);
    y.rope_keys = scattered(x.rope_keys);
    EXPECT_TRUE(same_bits(run(y, {}).o, one.o));
    EXPECT_TRUE(same_bits(run(y, {}).lse, one.lse));
  }
}

TEST(LatentAttention, RefusesWhatDoesNotFit) {
  const Data x({1, 1, 5, 4, 2, 16, 8}, DType::f32);
  EXPECT_NE(message_of<ConfigError>([&] {
              latent_attention_forward(x.q_latent, x.q_rope, x.latents, x.rope_keys, {});
            }).find("latent_attention: scale must be set"),
            std::string::npos);
  const FlashAttentionOptions options{.scale = 1.0};
  EXPECT_EQ(
      message_of<ShapeError>([&] {
        latent_attention_forward(x.q_latent, x.q_rope, x.latents, zeros({1, 5, 2, 8}), options);
      }),
      "latent_attention: rope_keys must be [1, 5, 1, 8], got [1, 5, 2, 8] f32 cpu");
  EXPECT_NE(
      message_of<ShapeError>([&] {
        latent_attention_forward(x.q_latent, zeros({1, 1, 3, 8}), x.latents, x.rope_keys, options);
      }).find("q_rope must be [1, 1, 4, Dr]"),
      std::string::npos);
  EXPECT_NE(message_of<ShapeError>([&] {
              latent_attention_forward(Tensor(), x.q_rope, x.latents, x.rope_keys, options);
            }).find("q_latent"),
            std::string::npos);
  EXPECT_NE(message_of<DTypeError>([&] {
              latent_attention_forward(x.q_latent, x.q_rope, x.latents.to(DType::f64), x.rope_keys,
                                       options);
            }).find("one type"),
            std::string::npos);
  EXPECT_NE(message_of<ShapeError>([&] {
              latent_attention_forward(zeros({1, 1, 3, 16}), zeros({1, 1, 3, 8}), x.latents,
                                       x.rope_keys, options);
            }).find("multiple of the 2"),
            std::string::npos);
}

}  // namespace
}  // namespace weft::attention
