#include "weft/nn/decoder.h"

#include <cmath>
#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "weft/autograd/grad_check.h"
#include "weft/nn/loss.h"
#include "weft/tensor/allocator.h"
#include "weft/tensor/error.h"
#include "weft/tensor/ops/random.h"

#include "shift_mixer.h"

namespace weft::nn {
namespace {

DecoderConfig small_config() {
  return {.vocab_size = 11, .n_layers = 2, .d_model = 6, .d_ff = 10, .init_std = 0.3};
}

std::unique_ptr<DecoderLM> make_decoder(const DecoderConfig& config, uint64_t seed = 1) {
  Generator generator(seed);
  return std::make_unique<DecoderLM>(
      config, [&](int) { return std::make_unique<ShiftMixer>(config.d_model, generator); },
      generator);
}

Tensor tokens_of(std::vector<int64_t> ids, int64_t batch) {
  const auto count = static_cast<int64_t>(ids.size());
  return from_vector(ids, {batch, count / batch});
}

constexpr Recompute kEveryRecompute[] = {Recompute::none, Recompute::elementwise,
                                         Recompute::attention, Recompute::block};

TEST(Decoder, NamesParametersAsHuggingFaceDoes) {
  std::vector<std::string> names;
  for (const auto& [name, parameter] : make_decoder(small_config())->named_parameters())
    names.push_back(name);
  EXPECT_THAT(
      names,
      ::testing::ElementsAre(
          "model.embed_tokens.weight", "model.layers.0.input_layernorm.weight",
          "model.layers.0.self_attn.proj.weight", "model.layers.0.post_attention_layernorm.weight",
          "model.layers.0.mlp.gate_proj.weight", "model.layers.0.mlp.up_proj.weight",
          "model.layers.0.mlp.down_proj.weight", "model.layers.1.input_layernorm.weight",
          "model.layers.1.self_attn.proj.weight", "model.layers.1.post_attention_layernorm.weight",
          "model.layers.1.mlp.gate_proj.weight", "model.layers.1.mlp.up_proj.weight",
          "model.layers.1.mlp.down_proj.weight", "model.norm.weight", "lm_head.weight"));
}

TEST(Decoder, TyingDropsTheHead) {
  DecoderConfig config = small_config();
  const int64_t untied = make_decoder(config)->num_parameters();
  config.tie_embeddings = true;
  const auto tied = make_decoder(config);
  EXPECT_EQ(tied->num_parameters(), untied - 11 * 6);
  const Tensor tokens = tokens_of({1, 2, 3}, 1);
  tied->loss(tokens, tokens).backward();
  EXPECT_TRUE(tied->parameter("model.embed_tokens.weight").grad().defined());
}

TEST(Decoder, LogitsAtSomePlacesAreThoseOfAll) {
  DecoderConfig config = small_config();
  for (const bool tied : {false, true}) {
    config.tie_embeddings = tied;
    const auto model = make_decoder(config);
    const Tensor tokens = tokens_of({1, 2, 3, 4, 5, 6}, 2);
    const auto all = model->logits(tokens).data().reshape({6, 11}).to_vector<float>();
    const std::vector<int64_t> rows = {5, 0, 5, 3};
    const Tensor some = model->logits_at(tokens, from_vector(rows, {4}));
    ASSERT_EQ(some.shape(), Shape({4, 11}));
    const auto values = some.to_vector<float>();
    for (size_t i = 0; i < values.size(); ++i)
      EXPECT_NEAR(values[i], all[static_cast<size_t>(rows[i / 11]) * 11 + i % 11], 1e-6);
    EXPECT_THROW(model->logits_at(tokens, from_vector<int64_t>({6}, {1})), IndexError);
  }
}

TEST(Decoder, LossIsTheCrossEntropyOfTheLogits) {
  const auto model = make_decoder(small_config());
  model->to(DType::f64);
  const Tensor tokens = tokens_of({1, 2, 3, 4, 5, 6, 7, 8}, 2);
  const Tensor targets = tokens_of({2, 3, -100, 5, 6, 7, 8, 10}, 2);
  DecoderConfig config = small_config();
  config.compute_dtype = DType::f64;
  const auto model64 = make_decoder(config);
  model64->to(DType::f64);
  const double direct = model64->loss(tokens, targets).data().item<double>();
  const double from_logits =
      cross_entropy_loss(model64->logits(tokens), targets).data().item<double>();
  EXPECT_NEAR(direct, from_logits, 1e-12);

  const std::vector<float> each = model64->token_losses(tokens, targets).to_vector<float>();
  EXPECT_EQ(each.at(2), 0);
  double sum = 0;
  for (float loss : each) sum += loss;
  EXPECT_NEAR(sum / 7, direct, 1e-5);
}

TEST(Decoder, GradientsOfEveryParameter) {
  for (const Recompute recompute : kEveryRecompute) {
    DecoderConfig config = small_config();
    config.compute_dtype = DType::f64;
    config.recompute = recompute;
    const auto model = make_decoder(config);
    model->to(DType::f64);
    const Tensor tokens = tokens_of({1, 2, 3, 4, 5, 6}, 2);
    const Tensor targets = tokens_of({2, 3, 4, 5, 6, 7}, 2);
    const auto result = autograd::grad_check(
        [&](const std::vector<Variable>&) { return model->loss(tokens, targets); },
        model->parameters(), {.relative_tolerance = 1e-5, .max_elements = 20});
    EXPECT_TRUE(result) << result.message;
  }
}

TEST(Decoder, RecomputingGivesTheSameBits) {
  std::vector<std::vector<float>> expected;
  for (const Recompute recompute : kEveryRecompute) {
    DecoderConfig config = small_config();
    config.recompute = recompute;
    config.dropout = 0.3;
    const auto model = make_decoder(config);
    Generator generator(9);
    const Tensor tokens = tokens_of({1, 2, 3, 4, 5, 6}, 2);
    model->loss(tokens, tokens, &generator).backward();
    std::vector<std::vector<float>> grads;
    for (const Variable& parameter : model->parameters()) {
      grads.push_back(parameter.grad().to_vector<float>());
    }
    if (recompute == Recompute::none) expected = grads;
    EXPECT_EQ(grads, expected);
  }
}

TEST(Decoder, RecomputingKeepsLess) {
  Generator generator(2);
  const Tensor tokens = randint(0, 11, {8, 32}, generator);
  int64_t before = std::numeric_limits<int64_t>::max();
  for (const Recompute recompute : kEveryRecompute) {
    DecoderConfig config = small_config();
    config.recompute = recompute;
    const auto model = make_decoder(config);
    const int64_t start = allocator(kCpu).stats().allocated;
    const Variable loss = model->loss(tokens, tokens);
    const int64_t kept = allocator(kCpu).stats().allocated - start;
    EXPECT_LT(kept, before) << static_cast<int>(recompute);
    before = kept;
  }
}

TEST(Decoder, LossOfAScaleIsThatTimesTheSum) {
  const auto model = make_decoder(small_config());
  const Tensor tokens = tokens_of({1, 2, 3, 4, 5, 6}, 2);
  const float mean = model->loss(tokens, tokens).data().item<float>();
  EXPECT_NEAR(model->loss(tokens, tokens, nullptr, scalar(0.5)).data().item<float>(), 3 * mean,
              1e-5 * mean);
}

TEST(Decoder, CachedLogitsEqualTheForwardPassFromEveryPrefill) {
  const auto model = make_decoder(small_config());
  const Tensor tokens = tokens_of({1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, 2);
  const Tensor full = model->logits(tokens).data();
  for (int64_t prefill = 1; prefill <= 5; ++prefill) {
    DecoderCache cache = model->make_cache(2, 5);
    for (int64_t t = prefill; t <= 5; ++t) {
      const Tensor logits = model->prefill(
          t == prefill ? tokens.slice(1, 0, prefill) : tokens.slice(1, t - 1, t), cache);
      const std::vector<float> expected = full.select(1, t - 1).to_vector<float>();
      const std::vector<float> got = logits.to_vector<float>();
      for (size_t i = 0; i < got.size(); ++i)
        EXPECT_NEAR(got[i], expected[i], 1e-5) << prefill << " " << t;
    }
    EXPECT_EQ(cache.length(), 5);
    EXPECT_THROW(model->prefill(tokens.slice(1, 0, 1), cache), ShapeError);
    cache.reset();
    EXPECT_NO_THROW(model->prefill(tokens.slice(1, 0, 1), cache));
  }
}

TEST(Decoder, Bf16FollowsF32) {
  DecoderConfig config = small_config();
  const auto exact = make_decoder(config);
  config.compute_dtype = DType::bf16;
  const auto rounded = make_decoder(config);
  const Tensor tokens = tokens_of({1, 2, 3, 4, 5, 6}, 2);
  const Variable loss = rounded->loss(tokens, tokens);
  EXPECT_NEAR(loss.data().item<double>(), exact->loss(tokens, tokens).data().item<double>(), 0.03);
  loss.backward();
  for (const Variable& parameter : rounded->parameters())
    EXPECT_EQ(parameter.grad().dtype(), DType::f32);
}

TEST(Decoder, LearnsAShortSequence) {
  const auto model = make_decoder(small_config());
  const Tensor tokens = tokens_of({1, 2, 3, 4, 5, 6, 7, 8}, 1);
  const Tensor targets = tokens_of({2, 3, 4, 5, 6, 7, 8, 9}, 1);
  const double before = model->loss(tokens, targets).data().item<double>();
  for (int step = 0; step < 200; ++step) {
    model->zero_grad();
    model->loss(tokens, targets).backward();
    for (Variable parameter : model->parameters()) {
      Tensor change = parameter.grad().clone();
      std::vector<float> values = parameter.data().to_vector<float>();
      const std::vector<float> grads = change.to_vector<float>();
      for (size_t i = 0; i < values.size(); ++i) values[i] -= 0.3f * grads[i];
      parameter.mutable_data().copy_(from_vector(values, parameter.shape()));
    }
  }
  const double after = model->loss(tokens, targets).data().item<double>();
  EXPECT_GT(before, 2.0);
  EXPECT_LT(after, 0.1);
}

TEST(Decoder, RefusesBadConfigsAndInputs) {
  DecoderConfig config = small_config();
  config.n_layers = 0;
  EXPECT_THROW(make_decoder(config), ConfigError);
  config = small_config();
  config.dropout = 1;
  EXPECT_THROW(make_decoder(config), ConfigError);
  const auto model = make_decoder(small_config());
  EXPECT_THROW(model->logits(tokens_of({1, 11}, 1)), IndexError);
  EXPECT_THROW(model->logits(from_vector<int64_t>({1}, {1})), ShapeError);
  EXPECT_THROW(model->loss(tokens_of({1, 2}, 1), tokens_of({1, 2}, 2)), ShapeError);
  EXPECT_THROW(model->make_cache(0, 5), ConfigError);
}

}  // namespace
}  // namespace weft::nn
