// Decoding steps as one kernel against the same steps kernel after kernel.
#include "weft/tensor/ops/decode_program.h"

#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "weft/attention/registry.h"
#include "weft/nn/decode_loop.h"
#include "weft/nn/decoder.h"
#include "weft/tensor/ops/next_token.h"

#include "attention_cuda_test_data.h"
#include "decode_model.h"

namespace weft::attention {
namespace {

using testing::kGpu;
using testing::prompt_rows;
using testing::relative_error;
using testing::same_bits_on_gpu;

class DecodeProgramOnGpu : public testing::OnGpu {};

struct Case {
  std::string schedule = "full";
  int64_t width = 64, heads = 4, kv_heads = 4, d_ff = 96, vocabulary = 61, layers = 2;
  std::vector<std::string> options{};
  bool tied = false;
  int64_t batch = 1, prompt = 20, steps = 30;
  DType dtype = DType::bf16;
};

std::ostream& operator<<(std::ostream& stream, const Case& c) {
  return stream << c.schedule << " width " << c.width << " heads " << c.heads << "/" << c.kv_heads
                << " d_ff " << c.d_ff << " vocabulary " << c.vocabulary << " batch " << c.batch
                << " prompt " << c.prompt << " " << to_string(c.dtype);
}

std::unique_ptr<nn::DecoderLM> make_model(const Case& c, DType parameters = DType::f32) {
  const double deviation = 1.6 / std::sqrt(static_cast<double>(c.width));
  const nn::DecoderConfig config{.vocab_size = c.vocabulary,
                                 .n_layers = c.layers,
                                 .d_model = c.width,
                                 .d_ff = c.d_ff,
                                 .tie_embeddings = c.tied,
                                 .init_std = deviation,
                                 .compute_dtype = c.dtype};
  const AttentionConfig attention{.shape = {.d_model = c.width,
                                            .n_heads = c.heads,
                                            .n_kv_heads = c.kv_heads,
                                            .n_layers = c.layers,
                                            .init_std = deviation},
                                  .schedule = c.schedule,
                                  .options = c.options};
  Generator generator(5);
  auto model =
      std::make_unique<nn::DecoderLM>(config, make_mixer_factory(attention, generator), generator);
  model->to(parameters);
  model->eval();
  model->to(kGpu);
  return model;
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const int64_t batch : {1, 2, 3, 4}) all.push_back({.batch = batch});
  // Heads of one and of two vectors of 8 a lane group, groups of queries, rows over 8 KiB.
  all.push_back({.width = 32, .heads = 4, .kv_heads = 2, .d_ff = 40, .vocabulary = 31});
  all.push_back({.width = 256, .heads = 4, .kv_heads = 1, .d_ff = 680, .batch = 2});
  all.push_back({.width = 256, .heads = 2, .kv_heads = 2, .d_ff = 5000, .tied = true});
  all.push_back({.width = 320, .heads = 5, .kv_heads = 1, .d_ff = 256, .batch = 3});
  all.push_back({.width = 512, .heads = 8, .kv_heads = 8, .d_ff = 1408, .vocabulary = 8000});
  all.push_back({.width = 2048, .heads = 16, .kv_heads = 4, .d_ff = 5632, .vocabulary = 1001});
  all.push_back({.width = 768, .heads = 12, .kv_heads = 12, .d_ff = 2048, .vocabulary = 50304});
  // Keys of no, one and many parts, and those of a ring that goes round.
  for (const int64_t prompt : {1, 31, 32, 63, 64, 65, 127, 500, 1500}) {
    all.push_back({.width = 256, .d_ff = 320, .prompt = prompt});
    all.push_back({.width = 256, .kv_heads = 1, .d_ff = 320, .batch = 2, .prompt = prompt});
  }
  for (const std::string window : {"1", "7", "40", "200"}) {
    all.push_back(
        {.schedule = "full,swa", .options = {"window=" + window}, .batch = 2, .prompt = 190});
  }
  all.push_back({.options = {"rope=false"}});
  all.push_back({.batch = 3, .dtype = DType::f16});
  return all;
}

TEST_F(DecodeProgramOnGpu, GivesTheLogitsOfKernelsOneByOne) {
  for (const Case& c : cases()) {
    SCOPED_TRACE(::testing::Message() << c);
    const auto model = make_model(c);
    const int64_t capacity = c.prompt + c.steps;
    nn::DecoderCache cache = model->make_cache(c.batch, capacity);
    nn::DecoderCache other_cache = model->make_cache(c.batch, capacity);
    model->prefill(prompt_rows(c.batch, c.prompt), cache);
    model->prefill(prompt_rows(c.batch, c.prompt), other_cache);
    nn::DecodeLoop loop(*model, cache);
    nn::DecodeLoop other(*model, other_cache, 0, /*may_be_one_kernel=*/false);
    std::vector<int64_t> tokens(static_cast<size_t>(c.batch), 3);
    for (int64_t i = 0; i < c.steps; ++i) {
      loop.set_tokens(tokens);
      other.set_tokens(tokens);
      loop.step();
      other.step();
      // Sums in another order, rounded in the same places: what is left is noise of the type, which
      // the layers before amplify.
      const double error = relative_error(loop.logits(), other.logits());
      ASSERT_LE(error, c.dtype == DType::bf16 ? 0.04 : 0.005) << "step " << i;
      tokens = other.chosen(i);
    }
    EXPECT_TRUE(loop.is_one_kernel());
    EXPECT_FALSE(other.is_one_kernel());
    EXPECT_EQ(loop.nodes(), 2);  // and the choice of the token
  }
}

TEST_F(DecodeProgramOnGpu, RepeatsToTheBit) {
  const Case c{.width = 256, .d_ff = 680, .vocabulary = 1000, .batch = 1, .prompt = 700};
  const auto model = make_model(c);
  const auto run = [&] {
    nn::DecoderCache cache = model->make_cache(c.batch, c.prompt + 200);
    model->prefill(prompt_rows(c.batch, c.prompt), cache);
    nn::DecodeLoop loop(*model, cache);
    loop.set_tokens({5});
    for (int64_t i = 0; i < 200; ++i) loop.step();
    loop.chosen(199);
    return loop.logits().clone();
  };
  const Tensor first = run();
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(same_bits_on_gpu(run(), first));
}

TEST_F(DecodeProgramOnGpu, RunsOutsideOfGraphsAndAfterOthersOfItsKind) {
  const Case c;
  const auto model = make_model(c);
  nn::DecoderCache cache = model->make_cache(1, 50);
  model->prefill(prompt_rows(1, 20), cache);
  const Tensor tokens = from_vector<int64_t>({3}, {1}).to(kGpu);
  const Tensor position = from_vector<int64_t>({20}, {1}).to(kGpu);
  const auto step = [&] { return model->decode(tokens, cache, {.position = position}); };
  const auto first = DecodeProgram::record(kGpu, step);
  const auto second = DecodeProgram::record(kGpu, step);
  ASSERT_TRUE(first && second);
  first->run();
  const Tensor expected = first->result().clone();
  for (int i = 0; i < 10; ++i) {
    // At the same place of the cache, so that the same comes out.
    (i % 2 == 0 ? second : first)->run();
    EXPECT_TRUE(same_bits_on_gpu(second->result(), expected)) << i;
    EXPECT_TRUE(same_bits_on_gpu(first->result(), expected)) << i;
  }
}

TEST_F(DecodeProgramOnGpu, RefusesWhatItDoesNotKnow) {
  const auto is_taken = [](const Case& c, DType parameters = DType::f32) {
    const auto model = make_model(c, parameters);
    nn::DecoderCache cache = model->make_cache(c.batch, 30);
    model->prefill(prompt_rows(c.batch, 20), cache);
    nn::DecodeLoop loop(*model, cache);
    loop.set_tokens(std::vector<int64_t>(static_cast<size_t>(c.batch), 1));
    loop.step();
    EXPECT_GE(loop.chosen(0)[0], 0);  // by other kernels then
    return loop.is_one_kernel();
  };
  EXPECT_TRUE(is_taken({}));
  EXPECT_TRUE(is_taken({}, DType::bf16));
  EXPECT_FALSE(is_taken({.dtype = DType::f32}));
  EXPECT_FALSE(is_taken({.batch = 5}));
  EXPECT_FALSE(is_taken({.width = 256, .heads = 1, .kv_heads = 1}));  // of 256
  EXPECT_FALSE(is_taken({.d_ff = 90}));                               // rows of 180 bytes
  EXPECT_FALSE(is_taken({.d_ff = 110000}));                           // longer than shared memory
}

TEST_F(DecodeProgramOnGpu, RefusesAStepWhoseResultIsSomethingElse) {
  const Case c;
  const auto model = make_model(c);
  nn::DecoderCache cache = model->make_cache(1, 50);
  model->prefill(prompt_rows(1, 20), cache);
  const Tensor tokens = from_vector<int64_t>({3}, {1}).to(kGpu);
  const Tensor position = from_vector<int64_t>({20}, {1}).to(kGpu);
  const auto program = DecodeProgram::record(
      kGpu, [&] { return model->decode(tokens, cache, {.position = position}).clone(); });
  EXPECT_EQ(program, nullptr);
  // And what comes after is not recorded.
  EXPECT_NO_THROW(token_rows(zeros({4, 8}, DType::bf16, kGpu), tokens, DType::bf16));
}

TEST(DecodeProgramOnCpu, IsNone) {
  EXPECT_EQ(DecodeProgram::record(kCpu, [] { return Tensor(); }), nullptr);
}

}  // namespace
}  // namespace weft::attention
