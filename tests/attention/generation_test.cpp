// Generation with the cache of a model, for every mechanism and from every length of the prompt.
#include "weft/nn/generation.h"

#include <set>

#include "weft/attention/registry.h"

#include "attention_test_data.h"

namespace weft::attention {
namespace {

constexpr int64_t kVocabulary = 31, kWidth = 24, kLongestPrompt = 27, kNewTokens = 24;

struct Case {
  const char *name, *schedule;
  std::vector<std::string> options{};
};

void PrintTo(const Case& c, std::ostream* out) {
  *out << c.name;
}

const std::vector<std::string> kBlocks = {"block=4",        "stride=2", "select-block=8",
                                          "select-count=3", "local=1",  "window=5"};

std::unique_ptr<nn::DecoderLM> make_model(const Case& c, DType dtype) {
  // Large weights: attention is far from uniform, and the most likely tokens differ.
  const nn::DecoderConfig config{.vocab_size = kVocabulary,
                                 .n_layers = 4,
                                 .d_model = kWidth,
                                 .d_ff = 32,
                                 .init_std = 0.4,
                                 .compute_dtype = dtype};
  const AttentionConfig attention{
      .shape = {.d_model = kWidth, .n_heads = 4, .n_kv_heads = 2, .n_layers = 4, .init_std = 0.4},
      .schedule = c.schedule,
      .options = c.options};
  Generator generator(5);
  auto model =
      std::make_unique<nn::DecoderLM>(config, make_mixer_factory(attention, generator), generator);
  model->to(dtype);
  return model;
}

/// Mechanisms, without or with those that select blocks.
std::vector<Case> cases(bool with_selection) {
  std::vector<Case> result{{"Full", "full"},
                           {"Swa", "swa", {"window=5"}},
                           {"Mla", "mla"},
                           {"MlaAbsorbed", "mla", {"form=absorbed"}},
                           {"Gla", "gla"}};
  if (!with_selection) return result;
  result.insert(result.end(), {{"Nsa", "nsa", kBlocks},
                               {"NsaShared",
                                "nsa",
                                {"block=4", "stride=4", "select-block=4", "select-count=3",
                                 "local=1", "window=5", "kv-sharing=shared", "compressor=mlp"}},
                               {"Asa", "asa", kBlocks},
                               {"AsaGlobalFirst", "GL", kBlocks},
                               {"Mixed", "full,nsa,asa-local,asa-global", {"window=5"}}});
  return result;
}

std::string name_of(const ::testing::TestParamInfo<Case>& info) {
  return info.param.name;
}

class Generation : public ::testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(All, Generation, ::testing::ValuesIn(cases(true)), &name_of);

/// Where rounding can choose no blocks: the other mechanisms differ at near ties.
class GenerationInF32 : public ::testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(All, GenerationInF32, ::testing::ValuesIn(cases(false)), &name_of);

void expect_cached_equals_uncached(const Case& c, DType dtype) {
  const auto model = make_model(c, dtype);
  std::vector<int64_t> text;
  for (int64_t i = 0; i < kLongestPrompt; ++i) text.push_back((7 * i * i + 3 * i) % kVocabulary);
  std::set<int64_t> drawn;
  for (int64_t length = 1; length <= kLongestPrompt; ++length) {
    const std::span<const int64_t> prompt(text.data(), static_cast<size_t>(length));
    Generator generator(1);
    nn::GenerationOptions options{.max_new_tokens = kNewTokens, .sampling = {.temperature = 0}};
    const std::vector<int64_t> cached = nn::generate(*model, prompt, options, generator);
    options.use_cache = false;
    EXPECT_EQ(cached, nn::generate(*model, prompt, options, generator)) << "prompt of " << length;
    drawn.insert(cached.begin(), cached.end());
  }
  EXPECT_GE(drawn.size(), 5U);  // else any cache would do
}

TEST_P(Generation, WithTheCacheEqualsWithoutFromEveryPrompt) {
  expect_cached_equals_uncached(GetParam(), DType::f64);
}

TEST_P(GenerationInF32, WithTheCacheEqualsWithoutFromEveryPrompt) {
  expect_cached_equals_uncached(GetParam(), DType::f32);
}

TEST_P(Generation, EveryPrefillGivesTheLogitsOfTheWholeText) {
  const auto model = make_model(GetParam(), DType::f64);
  const autograd::NoGradGuard no_grad;
  std::vector<int64_t> ids;
  for (int64_t i = 0; i < 2 * kLongestPrompt; ++i) ids.push_back((5 * i * i + i) % kVocabulary);
  const Tensor tokens = from_vector(ids, {2, kLongestPrompt});
  const Tensor logits = model->logits(tokens).data();
  const double size = std::max(1.0, testing::largest_magnitude(logits));
  for (int64_t first = 1; first <= kLongestPrompt; ++first) {
    nn::DecoderCache cache = model->make_cache(2, kLongestPrompt);
    for (int64_t t = 0, end = first; t < kLongestPrompt; t = end, end = t + 1) {
      const Tensor row = model->prefill(tokens.slice(1, t, end), cache);
      EXPECT_LE(testing::largest_difference(row, logits.select(1, end - 1)), 1e-11 * size)
          << "prefill of " << first << ", token " << end - 1;
    }
  }
}

}  // namespace
}  // namespace weft::attention
