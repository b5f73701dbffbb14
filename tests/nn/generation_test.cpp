#include "weft/nn/generation.h"

#include <cmath>
#include <limits>
#include <map>

#include <gtest/gtest.h>

#include "weft/tensor/error.h"

#include "shift_mixer.h"

namespace weft::nn {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

TEST(SampleToken, TemperatureZeroTakesTheLowestIdOfTheMostLikely) {
  Generator generator(1);
  const std::vector<float> logits = {0, 3, -1, 3};
  EXPECT_EQ(sample_token(logits, {.temperature = 0}, generator), 1);
  EXPECT_EQ(generator.state().offset, 0u);
}

std::map<int64_t, int> draw(const std::vector<float>& logits, const SamplingOptions& options,
                            int count) {
  Generator generator(1);
  std::map<int64_t, int> counts;
  for (int i = 0; i < count; ++i) ++counts[sample_token(logits, options, generator)];
  return counts;
}

TEST(SampleToken, DrawsInProportion) {
  const std::vector<float> logits = {std::log(0.5f), std::log(0.2f), std::log(0.3f)};
  const auto counts = draw(logits, {}, 20000);
  EXPECT_NEAR(counts.at(0), 10000, 300);
  EXPECT_NEAR(counts.at(1), 4000, 300);
  EXPECT_NEAR(counts.at(2), 6000, 300);
  // p^2 renormalised: 0.25, 0.04, 0.09.
  EXPECT_NEAR(draw(logits, {.temperature = 0.5}, 20000).at(0), 20000 * 0.25 / 0.38, 300);
}

TEST(SampleToken, TopKAndTopPCutTheTail) {
  const std::vector<float> logits = {std::log(0.5f), std::log(0.2f), std::log(0.3f)};
  EXPECT_EQ(draw(logits, {.top_k = 2}, 500).count(1), 0u);
  EXPECT_EQ(draw(logits, {.top_k = 1}, 500).size(), 1u);
  EXPECT_EQ(draw(logits, {.top_k = 99}, 500).size(), 3u);
  EXPECT_EQ(draw(logits, {.top_p = 0.45}, 500).size(), 1u);
  EXPECT_EQ(draw(logits, {.top_p = 0.7}, 500).count(1), 0u);
  EXPECT_EQ(draw(logits, {.top_p = 0.7}, 500).size(), 2u);
}

TEST(SampleToken, NeverDrawsInfinitiesOrNan) {
  const auto counts = draw({-kInf, 0, std::nanf(""), 0}, {}, 200);
  EXPECT_EQ(counts.count(0) + counts.count(2), 0u);
  Generator generator(1);
  EXPECT_THROW(sample_token(std::vector<float>{std::nanf("")}, {}, generator), ConfigError);
  EXPECT_THROW(sample_token(std::vector<float>{}, {}, generator), ShapeError);
}

TEST(SampleToken, RefusesBadOptions) {
  Generator generator(1);
  const std::vector<float> logits = {0};
  for (const SamplingOptions& bad :
       {SamplingOptions{.temperature = -1}, SamplingOptions{.temperature = kInf},
        SamplingOptions{.top_k = -1}, SamplingOptions{.top_p = 0}, SamplingOptions{.top_p = 1.5}}) {
    EXPECT_THROW(sample_token(logits, bad, generator), ConfigError);
  }
}

class Generate : public ::testing::Test {
 protected:
  Generate() {
    const DecoderConfig config{
        .vocab_size = 11, .n_layers = 2, .d_model = 6, .d_ff = 10, .init_std = 0.5};
    Generator generator(1);
    model_ = std::make_unique<DecoderLM>(
        config, [&](int) { return std::make_unique<ShiftMixer>(config.d_model, generator); },
        generator);
  }
  std::vector<int64_t> run(const GenerationOptions& options, uint64_t seed) {
    Generator generator(seed);
    return generate(*model_, std::vector<int64_t>{1, 2, 3}, options, generator);
  }
  std::unique_ptr<DecoderLM> model_;
};

TEST_F(Generate, CachedEqualsUncachedAndSeedsRepeat) {
  for (const double temperature : {0.0, 1.0}) {
    GenerationOptions options{.max_new_tokens = 30, .sampling = {.temperature = temperature}};
    const auto cached = run(options, 5);
    EXPECT_EQ(cached.size(), 30u);
    EXPECT_EQ(cached, run(options, 5));
    options.use_cache = false;
    EXPECT_EQ(cached, run(options, 5));
  }
  EXPECT_NE(run({.max_new_tokens = 30}, 5), run({.max_new_tokens = 30}, 6));
}

TEST_F(Generate, DrawsOnlyBelowTheVocabulary) {
  Generator generator(3);
  GenerationOptions options{.max_new_tokens = 60, .sampling = {.temperature = 100}};
  options.vocab_size = 4;
  const std::vector<int64_t> prompt = {1, 2};
  for (const int64_t token : generate(*model_, prompt, options, generator)) EXPECT_LT(token, 4);
}

TEST_F(Generate, StopsWhenToldAndRestoresTheMode) {
  Generator generator(1);
  int seen = 0;
  const auto tokens =
      generate(*model_, std::vector<int64_t>{1}, {.max_new_tokens = 30}, generator, [&](int64_t) {
        EXPECT_FALSE(model_->training());
        return ++seen < 4;
      });
  EXPECT_EQ(tokens.size(), 4u);
  EXPECT_TRUE(model_->training());
  EXPECT_THROW(generate(*model_, std::vector<int64_t>{}, {}, generator), ShapeError);
  EXPECT_THROW(generate(*model_, std::vector<int64_t>{11}, {}, generator), IndexError);
  EXPECT_TRUE(model_->training());
  EXPECT_TRUE(generate(*model_, std::vector<int64_t>{1}, {.max_new_tokens = 0}, generator).empty());
}

}  // namespace
}  // namespace weft::nn
