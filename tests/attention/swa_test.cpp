#include <gmock/gmock.h>

#include "weft/attention/full.h"
#include "weft/attention/registry.h"
#include "weft/attention/token_ring.h"
#include "weft/tensor/ops/matmul.h"

#include "attention_test_data.h"
#include "layer_test.h"
#include "reference/full_reference.h"

namespace weft::attention {
namespace {

using testing::compare_with_oracle;
using testing::Draw;
using testing::forward;
using testing::largest_difference;
using testing::message_of;
using testing::random_tensor;
using testing::same_bits;

std::unique_ptr<FullAttention> make_layer(const FullAttentionOptions& options) {
  return testing::make_layer<FullAttention>(options);
}

testing::LayerOracle oracle_of(const FullAttentionOptions& options, int64_t position = 0) {
  return [=](const reference::Parameters& parameters, const Tensor& x, const Tensor& dy) {
    return reference::full_layer({.heads = options.n_heads,
                                  .kv_heads = options.n_kv_heads,
                                  .head_dim = options.head_dim,
                                  .rope_theta = options.rope_theta,
                                  .window = options.window,
                                  .position = position},
                                 parameters, x, dy);
  };
}

TEST(SlidingWindow, AgreesWithItsDefinitionInEveryType) {
  testing::ResultChecks checks;
  for (const DType dtype : {DType::f64, DType::f32, DType::bf16}) {
    for (const int64_t window : {0, 1, 5, 16, 40}) {
      const FullAttentionOptions options{.d_model = 20,
                                         .n_heads = 4,
                                         .n_kv_heads = 2,
                                         .head_dim = 6,
                                         .window = window,
                                         .init_std = 0.25};
      SCOPED_TRACE(::testing::Message() << to_string(dtype) << " window " << window);
      const auto layer = make_layer(options);
      compare_with_oracle(*layer, random_tensor({2, 31, 20}, dtype, 1), oracle_of(options, 3),
                          checks[dtype], 3);
    }
  }
}

TEST(SlidingWindow, AsLongAsTheSequenceIsFullAttention) {
  FullAttentionOptions options{.d_model = 16, .n_heads = 2, .init_std = 0.5};
  const auto full = make_layer(options);
  const Tensor x = random_tensor({2, 30, 16}, DType::f32, 1);
  for (const int64_t window : {30, 31, 1000000}) {
    options.window = window;
    EXPECT_TRUE(same_bits(forward(*make_layer(options), x), forward(*full, x))) << window;
  }
}

TEST(SlidingWindow, SeesExactlyItsWindow) {
  const auto layer = make_layer({.d_model = 16, .n_heads = 2, .window = 5, .init_std = 0.5});
  testing::expect_sees_exactly(*layer, random_tensor({1, 20, 16}, DType::f32, 1), 5);
}

TEST(SlidingWindow, DecodesInLowPrecisionFarBeyondItsWindow) {
  const auto layer = make_layer({.d_model = 16, .n_heads = 2, .window = 7, .init_std = 0.25});
  testing::expect_decodes_in_bf16(*layer, random_tensor({2, 60, 16}, DType::bf16, 1));
}

TEST(SlidingWindow, SchedulesOfLettersAndNamesAgreeToTheBit) {
  const auto run = [](const char* schedule) {
    Generator generator(1);
    const auto factory = make_mixer_factory(
        {.shape = {.d_model = 16, .n_heads = 2, .n_layers = 4}, .schedule = schedule}, generator);
    Tensor x = random_tensor({1, 20, 16}, DType::f32, 1);
    for (int layer = 0; layer < 4; ++layer) x = forward(*factory(layer), x);
    return x;
  };
  EXPECT_TRUE(same_bits(run("FFFF"), run("full")));
  EXPECT_TRUE(same_bits(run("LG"), run("asa")));
}

TEST(SlidingWindow, FirstRowIsItsOwnValue) {
  const auto layer = make_layer({.d_model = 16, .n_heads = 2, .window = 3, .init_std = 0.5});
  layer->to(DType::f64);
  const Tensor x = random_tensor({1, 1, 16}, DType::f64, 1);
  const auto product = [&](const Tensor& rows, const char* name) {
    return matmul(rows, layer->parameter(name).data(), {.transpose_b = true});
  };
  EXPECT_LE(
      largest_difference(forward(*layer, x), product(product(x, "v_proj.weight"), "o_proj.weight")),
      1e-14);
}

TEST(SlidingWindow, CacheKeepsTheWindow) {
  const auto layer =
      make_layer({.d_model = 32, .n_heads = 8, .n_kv_heads = 2, .window = 10});  // head_dim 4
  EXPECT_EQ(layer->cache_bytes(100, DType::bf16), 10 * 2 * (4 + 4) * 2);
  EXPECT_EQ(layer->cache_bytes(7, DType::bf16), 7 * 2 * (4 + 4) * 2);
  EXPECT_EQ(layer->make_cache(3, 100, DType::f32, kCpu)->bytes(), 3 * 10 * 2 * (4 + 4) * 4);
  EXPECT_EQ(layer->make_cache(3, 100, DType::f32, kCpu)->capacity(), 100);
}

TEST(SlidingWindow, CountsFlops) {
  const auto layer = make_layer({.d_model = 32, .n_heads = 8, .n_kv_heads = 2, .window = 6});
  // Pairs: w T - w (w - 1) / 2.
  EXPECT_DOUBLE_EQ(layer->forward_cost(10).core_flops, (60 - 15) * 2.0 * 8 * 8);
  EXPECT_DOUBLE_EQ(layer->forward_cost(4).core_flops, 10 * 2.0 * 8 * 8);
  EXPECT_DOUBLE_EQ(layer->step_cost(3).core_flops, 4 * 2.0 * 8 * 8);
  EXPECT_DOUBLE_EQ(layer->step_cost(1000).core_flops, 6 * 2.0 * 8 * 8);
}

TEST(SlidingWindow, RefusesWhatDoesNotFit) {
  EXPECT_EQ(message_of<ConfigError>([] { make_layer({.window = -1}); }),
            "sliding-window attention: window must be at least 1, or 0 for all tokens, got -1");
  EXPECT_EQ(message_of<ConfigError>([] { make_layer({.d_model = 30, .n_heads = 4, .window = 2}); }),
            "sliding-window attention: d_model (30) must be a multiple of n_heads (4) unless "
            "head_dim is given");
  Generator generator(1);
  EXPECT_EQ(message_of<ConfigError>([&] {
              make_mixer_factory({.shape = {}, .schedule = "swa", .options = {"window=0"}},
                                 generator);
            }),
            "attention swa: window must be an integer of at least 1 up to 1073741824, got \"0\"");
  const auto layer = make_layer({.d_model = 16, .n_heads = 2, .window = 3});
  const auto full = make_layer({.d_model = 16, .n_heads = 2});
  const auto cache = layer->make_cache(1, 4, DType::bf16, kCpu);
  const Variable x(zeros({1, 2, 16}));
  message_of<DTypeError>([&] { layer->prefill(x, *cache); });
  message_of<ConfigError>([&] { full->prefill(x, *cache); });
  message_of<ConfigError>([&] { layer->prefill(x, *full->make_cache(1, 4, DType::f32, kCpu)); });
  message_of<ConfigError>([&] { layer->make_cache(1, 0, DType::f32, kCpu); });
  message_of<ConfigError>([&] { layer->make_cache(0, 1, DType::f32, kCpu); });
}

TEST(TokenRing, KeepsTheLastRows) {
  const int64_t rows = 5;
  TokenRing ring(2, 3, rows, 4, DType::f32, kCpu);
  const Tensor all = random_tensor({2, 40, 3, 4}, DType::f32, 1);
  int64_t length = 0;
  for (const int64_t count : {1, 1, 3, 2, 0, 5, 4, 11, 1, 6}) {
    ring.write(all.slice(1, length, length + count), length);
    length += count;
    for (int64_t n = 0; n <= std::min(rows, length); ++n) {
      EXPECT_TRUE(same_bits(ring.read(length - n, length), all.slice(1, length - n, length)));
    }
    EXPECT_EQ(ring.kept(length).size(1), std::min(rows, length));
  }
  EXPECT_THROW(ring.write(zeros({2, 1, 3, 5}), 0), ShapeError);
  EXPECT_THROW(ring.write(zeros({1, 1, 3, 4}), 0), ShapeError);
  EXPECT_THROW(ring.write(zeros({2, 1, 3, 4}, DType::f64), 0), DTypeError);
}

// Random shapes, windows and types: against the oracle, and decoded in random pieces.
void compare_random_configuration(Draw& draw, int64_t window, testing::ResultChecks& checks) {
  const int64_t kv_heads = draw(1, 3);
  const FullAttentionOptions options{.d_model = draw(1, 12),
                                     .n_heads = kv_heads * draw(1, 3),
                                     .n_kv_heads = kv_heads,
                                     .head_dim = 2 * draw(1, 5),
                                     .rope_theta = draw.one_in(4) ? 0.0 : 10000.0,
                                     .window = window,
                                     .init_std = 0.4};
  const int64_t batch = draw(1, 2), length = draw(1, 40), position = draw(0, 1) * draw(0, 99);
  const DType dtype = draw.of<DType>({DType::f64, DType::f64, DType::f32, DType::bf16});
  const auto layer = make_layer(options);
  SCOPED_TRACE(::testing::Message() << layer->describe() << " B " << batch << " T " << length << " "
                                    << to_string(dtype) << " at " << position);
  const Tensor x = random_tensor({batch, length, options.d_model}, dtype, draw(1, 1 << 30));
  compare_with_oracle(*layer, x, oracle_of(options, position), checks[dtype], position);
  if (dtype != DType::bf16) testing::expect_decodes_in_pieces(*layer, x, draw);
}

TEST(SlowSlidingWindow, RandomConfigurationsAgreeWithTheirDefinition) {
  Draw draw(11);
  testing::ResultChecks checks;
  for (int trial = 0; trial < 700 && !HasFailure(); ++trial)
    compare_random_configuration(draw, draw(1, 24), checks);
}

TEST(SlowFullAttention, RandomConfigurationsAgreeWithTheirDefinition) {
  Draw draw(12);
  testing::ResultChecks checks;
  for (int trial = 0; trial < 700 && !HasFailure(); ++trial)
    compare_random_configuration(draw, 0, checks);
}

}  // namespace
}  // namespace weft::attention
