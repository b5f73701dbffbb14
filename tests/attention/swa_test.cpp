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

using testing::expect_agrees;
using testing::largest_difference;
using testing::message_of;
using testing::random_tensor;
using testing::same_bits;

std::unique_ptr<FullAttention> make_layer(const FullAttentionOptions& options) {
  Generator generator(7);
  return std::make_unique<FullAttention>(options, generator);
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

Tensor forward(nn::SequenceMixer& layer, const Tensor& x) {
  const autograd::NoGradGuard no_grad;
  return layer.forward(Variable(x), {}).data();
}

TEST(SlidingWindow, AgreesWithItsDefinitionInEveryType) {
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
      expect_agrees(*layer, random_tensor({2, 31, 20}, dtype, 1), oracle_of(options, 3), 3);
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
  const int64_t window = 5, length = 20;
  const auto layer = make_layer({.d_model = 16, .n_heads = 2, .window = window, .init_std = 0.5});
  const Tensor x = random_tensor({1, length, 16}, DType::f32, 1);
  const Tensor before = forward(*layer, x);
  for (int64_t s = 0; s < length; ++s) {
    Tensor changed = x.clone();
    changed.slice(1, s, s + 1).fill_(0.9);
    const Tensor after = forward(*layer, changed);
    for (int64_t t = 0; t < length; ++t) {
      EXPECT_EQ(same_bits(before.select(1, t), after.select(1, t)), t < s || t >= s + window)
          << "token " << s << " changed, row " << t;
    }
  }
}

TEST(SlidingWindow, DecodesInLowPrecisionFarBeyondItsWindow) {
  const auto layer = make_layer({.d_model = 16, .n_heads = 2, .window = 7, .init_std = 0.25});
  const Tensor x = random_tensor({2, 60, 16}, DType::bf16, 1);
  const Tensor whole = forward(*layer, x.to(DType::f32));
  const auto cache = layer->make_cache(2, 60, DType::bf16, kCpu);
  for (int64_t t = 0; t < 60;) {
    const int64_t end = t == 0 ? 13 : t + 1;
    const Tensor y = layer->prefill(Variable(x.slice(1, t, end)), *cache).data();
    EXPECT_LE(testing::layer_difference(y, whole.slice(1, t, end)), 4e-2) << t;
    t = end;
  }
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

// Random shapes and windows: against the oracle, and decoded in random pieces.
TEST(SlowSlidingWindow, RandomConfigurationsAgreeWithTheirDefinition) {
  std::mt19937_64 random(11);
  const auto pick = [&](int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(random);
  };
  for (int trial = 0; trial < 500; ++trial) {
    const int64_t kv_heads = pick(1, 3);
    const FullAttentionOptions options{.d_model = pick(1, 12),
                                       .n_heads = kv_heads * pick(1, 3),
                                       .n_kv_heads = kv_heads,
                                       .head_dim = 2 * pick(1, 5),
                                       .rope_theta = pick(0, 3) == 0 ? 0.0 : 10000.0,
                                       .window = pick(1, 24),
                                       .init_std = 0.4};
    const int64_t batch = pick(1, 2), length = pick(1, 40);
    SCOPED_TRACE(::testing::Message()
                 << "trial " << trial << ": E " << options.d_model << " H " << options.n_heads
                 << " Hk " << kv_heads << " D " << options.head_dim << " w " << options.window
                 << " T " << length);
    const auto layer = make_layer(options);
    const Tensor x = random_tensor({batch, length, options.d_model}, DType::f64, trial);
    expect_agrees(*layer, x, oracle_of(options));
    const Tensor whole = forward(*layer, x);
    const auto cache = layer->make_cache(batch, length + pick(0, 3), DType::f64, kCpu);
    for (int64_t t = 0; t < length;) {
      const int64_t end = std::min(length, t + (pick(0, 1) == 0 ? 1 : pick(1, 12)));
      const Tensor y = layer->prefill(Variable(x.slice(1, t, end)), *cache).data();
      EXPECT_LE(largest_difference(y, whole.slice(1, t, end)), 1e-12) << t << ".." << end;
      t = end;
    }
    if (HasFailure()) return;
  }
}

}  // namespace
}  // namespace weft::attention
