// Generation on the GPU: replays of the captured step against steps one by one, and the CPU.
#include "weft/nn/generation.h"

#include <cstdlib>

#include "weft/nn/decode_loop.h"

#include "attention_cuda_test_data.h"
#include "decode_model.h"

namespace weft::attention {
namespace {

using testing::decode_cases;
using testing::DecodeCase;
using testing::kGpu;
using testing::make_decode_model;
using testing::prompt_rows;
using testing::relative_error;

/// Kernels may start before the one in front of them is done in this program, and do not in the
/// others, so that both ways are tested. Read once by the library, so it is set before main().
const bool overlap_is_asked_for = setenv("WEFT_CUDA_OVERLAP", "1", /*overwrite=*/0) == 0;

class GenerationOnGpu : public testing::OnGpu {};

TEST_F(GenerationOnGpu, GreedyTokensAreThoseOfTheCpu) {
  for (const DecodeCase& c : decode_cases()) {
    for (const int64_t prompt : {1, 13, 40}) {
      SCOPED_TRACE(::testing::Message() << c.schedule << " prompt of " << prompt);
      const auto model = make_decode_model(c, DType::f32);
      const std::vector<int64_t> ids = prompt_rows(1, prompt).to_vector<int64_t>();
      const nn::GenerationOptions options{.max_new_tokens = 60, .sampling = {.temperature = 0}};
      Generator generator(1);
      const std::vector<int64_t> expected = nn::generate(*model, ids, options, generator);
      model->to(kGpu);
      EXPECT_EQ(nn::generate(*model, ids, options, generator), expected);
    }
  }
}

TEST_F(GenerationOnGpu, DrawsAreThoseOfTheCpuAndEndWhenAsked) {
  const auto model = make_decode_model(decode_cases()[0], DType::f32);
  const std::vector<int64_t> ids = prompt_rows(1, 9).to_vector<int64_t>();
  const nn::GenerationOptions options{
      .max_new_tokens = 50, .sampling = {.temperature = 0.7, .top_k = 9}, .vocab_size = 25};
  Generator first(3), second(3);
  const std::vector<int64_t> expected = nn::generate(*model, ids, options, first);
  model->to(kGpu);
  EXPECT_EQ(nn::generate(*model, ids, options, second), expected);
  for (const double temperature : {0.0, 0.7}) {
    std::vector<int64_t> seen;
    Generator generator(3);
    nn::GenerationOptions greedy = options;
    greedy.sampling.temperature = temperature;
    nn::generate(*model, ids, greedy, generator, [&](int64_t token) {
      seen.push_back(token);
      return seen.size() < 11;
    });
    EXPECT_EQ(seen.size(), 11U);
  }
}

/// Logits of every step against those of prefills of one token, which choose the tokens.
void expect_replays_agree(const DecodeCase& c, DType dtype, int64_t batch, int64_t prompt,
                          double tolerance) {
  SCOPED_TRACE(::testing::Message() << c.schedule << " " << to_string(dtype) << " batch " << batch
                                    << " prompt " << prompt);
  const auto model = make_decode_model(c, DType::f32, dtype);
  model->to(kGpu);
  const int64_t steps = 70, capacity = prompt + steps;
  nn::DecoderCache cache = model->make_cache(batch, capacity);
  nn::DecoderCache eager_cache = model->make_cache(batch, capacity);
  model->prefill(prompt_rows(batch, prompt), cache);
  model->prefill(prompt_rows(batch, prompt), eager_cache);
  nn::DecodeLoop loop(*model, cache);
  std::vector<int64_t> tokens(static_cast<size_t>(batch), 3);
  loop.set_tokens(tokens);
  for (int64_t i = 0; i < steps; ++i) {
    loop.step();
    const Tensor logits = model->prefill(from_vector(tokens, {batch, 1}), eager_cache);
    ASSERT_LE(relative_error(loop.logits().to(logits.dtype()), logits), tolerance) << "step " << i;
    const std::vector<float> values = loop.logits().to_vector<float>();
    const std::vector<int64_t> chosen = loop.chosen(i);
    for (size_t b = 0; b < tokens.size(); ++b) {
      const auto row = values.begin() + static_cast<ptrdiff_t>(b) * testing::kDecodeVocabulary;
      ASSERT_EQ(chosen[b], std::max_element(row, row + testing::kDecodeVocabulary) - row);
    }
    tokens = chosen;
  }
  EXPECT_GT(loop.nodes(), 0);
  // A layer takes five kernels: two products, attention, and two products of the MLP.
  if (batch <= 8) {
    EXPECT_LE(loop.nodes(), 5 * model->n_layers() + 3);
  }
}

TEST_F(GenerationOnGpu, ReplaysAgreeWithStepsOneByOne) {
  for (const DecodeCase& c : decode_cases()) {
    for (const int64_t batch : {1, 2, 5, 9}) {
      for (const int64_t prompt : {1, 30}) {
        expect_replays_agree(c, DType::f32, batch, prompt, 1e-4);
        expect_replays_agree(c, DType::bf16, batch, prompt, 0.1);
      }
    }
  }
}

TEST_F(GenerationOnGpu, KernelsThatOverlapGiveTheBitsOfThoseThatDoNot) {
  ASSERT_TRUE(overlap_is_asked_for);
  // The first step runs its kernels one by one, a replay starts each before the one in front ends.
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const DecodeCase c{"full", {}, 4};
    const auto model = make_decode_model(c, DType::f32, dtype, 128);
    model->to(kGpu);
    const int64_t prompt = 200;
    nn::DecoderCache cache = model->make_cache(1, prompt + 40);
    model->prefill(prompt_rows(1, prompt), cache);
    nn::DecodeLoop loop(*model, cache);
    loop.set_tokens({5});
    for (int64_t i = 0; i < 40; ++i) loop.step();
    const std::vector<int64_t> replayed = [&] {
      std::vector<int64_t> tokens{5};
      for (int64_t i = 0; i < 40; ++i) tokens.push_back(loop.chosen(i)[0]);
      return tokens;
    }();
    // Each token again, in the first step of a loop of its own, after the same tokens.
    nn::DecoderCache again = model->make_cache(1, prompt + 40);
    model->prefill(prompt_rows(1, prompt), again);
    for (size_t i = 0; i < 40; ++i) {
      nn::DecodeLoop single(*model, again);
      single.set_tokens({replayed[i]});
      single.step();
      ASSERT_EQ(single.chosen(0)[0], replayed[i + 1]) << to_string(dtype) << " step " << i;
      if (i == 39) {
        EXPECT_TRUE(testing::same_bits_on_gpu(single.logits(), loop.logits()));
      }
    }
  }
}

TEST_F(GenerationOnGpu, AModelInBf16AloneDecodes) {
  const DecodeCase c{"full", {}, 4};
  const auto model = make_decode_model(c, DType::bf16);
  model->to(kGpu);
  const std::vector<int64_t> ids = prompt_rows(1, 9).to_vector<int64_t>();
  const nn::GenerationOptions options{.max_new_tokens = 30, .sampling = {.temperature = 0}};
  Generator generator(1);
  EXPECT_EQ(nn::generate(*model, ids, options, generator).size(), 30U);
}

}  // namespace
}  // namespace weft::attention
