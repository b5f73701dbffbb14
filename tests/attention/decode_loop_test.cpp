#include "weft/nn/decode_loop.h"

#include <algorithm>

#include "weft/attention/registry.h"

#include "attention_test_data.h"
#include "decode_model.h"

namespace weft::attention {
namespace {

using testing::DecodeCase;
using testing::make_decode_model;
using testing::prompt_rows;

std::vector<int64_t> largest(const Tensor& logits) {
  std::vector<int64_t> tokens;
  for (int64_t b = 0; b < logits.size(0); ++b) {
    const std::vector<double> row = logits.select(0, b).to_vector<double>();
    tokens.push_back(std::max_element(row.begin(), row.end()) - row.begin());
  }
  return tokens;
}

TEST(DecodeLoop, GivesTheTokensAndLogitsOfPrefills) {
  for (const DecodeCase& c : testing::decode_cases()) {
    for (const DType dtype : {DType::f64, DType::f32}) {
      const auto model = make_decode_model(c, dtype);
      for (const int64_t prompt : {1, 5, 26}) {
        SCOPED_TRACE(::testing::Message()
                     << c.schedule << " " << to_string(dtype) << " " << prompt);
        const int64_t batch = 2, steps = 15, capacity = prompt + steps;
        nn::DecoderCache cache = model->make_cache(batch, capacity);
        nn::DecoderCache expected_cache = model->make_cache(batch, capacity);
        const Tensor rows = prompt_rows(batch, prompt);
        std::vector<int64_t> tokens = largest(model->prefill(rows, cache));
        model->prefill(rows, expected_cache);
        nn::DecodeLoop loop(*model, cache);
        loop.set_tokens(tokens);
        for (int64_t i = 0; i < steps; ++i) {
          loop.step();
          const Tensor logits = model->prefill(from_vector(tokens, {batch, 1}), expected_cache);
          const double size = std::max(1.0, testing::largest_magnitude(logits));
          EXPECT_LE(testing::largest_difference(loop.logits().to(logits.dtype()), logits),
                    (dtype == DType::f64 ? 1e-12 : 2e-5) * size)
              << "step " << i;
          tokens = largest(logits);
          EXPECT_EQ(loop.chosen(i), tokens) << "step " << i;
          EXPECT_EQ(cache.length(), prompt + i + 1);
        }
        EXPECT_EQ(loop.steps(), steps);
        EXPECT_THROW(loop.step(), ShapeError);
        // What the steps cached serves prefills as well.
        cache.reset();
        EXPECT_EQ(cache.length(), 0);
      }
    }
  }
}

TEST(DecodeLoop, ChoosesAmongTheVocabularyAndTakesOtherTokens) {
  const auto model = make_decode_model(testing::decode_cases()[0], DType::f64);
  nn::DecoderCache cache = model->make_cache(1, 40);
  const Tensor logits = model->prefill(prompt_rows(1, 4), cache);
  nn::DecodeLoop loop(*model, cache, 3);
  for (int64_t i = 0; i < 12; ++i) {
    loop.set_tokens({i});
    loop.step();
    const Tensor few = loop.logits().slice(1, 0, 3);
    EXPECT_EQ(loop.chosen(i), largest(few));
  }
  EXPECT_GE(loop.chosen(2)[0], 0);  // an early one is still known
}

TEST(DecodeLoop, RefusesWhatDoesNotFit) {
  const auto model = make_decode_model(testing::decode_cases()[0], DType::f32);
  nn::DecoderCache cache = model->make_cache(1, 8);
  EXPECT_THROW(nn::DecodeLoop(*model, cache, 100), ConfigError);
  nn::DecodeLoop loop(*model, cache);
  EXPECT_THROW(loop.set_tokens({1, 2}), ShapeError);
  EXPECT_THROW(loop.set_tokens({-1}), IndexError);
  EXPECT_THROW(loop.set_tokens({testing::kDecodeVocabulary}), IndexError);
  EXPECT_THROW(loop.chosen(0), IndexError);
  const auto other = make_decode_model({"mla", {}, 4}, DType::f32);
  nn::DecoderCache latents = other->make_cache(1, 8);
  EXPECT_FALSE(other->can_decode(latents));
  EXPECT_THROW(nn::DecodeLoop(*other, latents), ConfigError);
  EXPECT_THROW(latents.advance(1), NotImplementedError);
  EXPECT_THROW(cache.advance(9), ShapeError);
  EXPECT_FALSE(model->can_decode(latents));
}

}  // namespace
}  // namespace weft::attention
