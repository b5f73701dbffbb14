// Every mechanism in a graph of the GPU: forward and backward, captured once and replayed on other
// input, give what they give when they run at once.
#include <utility>

#include "weft/attention/kernels/block_selection.h"
#include "weft/attention/selection_operations.h"
#include "weft/nn/decoder.h"
#include "weft/tensor/allocator.h"
#include "weft/tensor/graph.h"
#include "weft/tensor/stream.h"

#include "mixer_cases.h"

namespace weft::attention {
namespace {

using autograd::Variable;
using testing::all_mixer_cases;
using testing::kGpu;
using testing::kWidth;
using testing::make_mixer;
using testing::name_of;
using testing::random_tensor;
using testing::relative_error;

class MixerInAGraph : public testing::MixerOnGpu {
 protected:
  struct Results {
    Tensor y, dx;
    std::vector<Tensor> grads;
  };

  static Results train(nn::SequenceMixer& mixer, const Tensor& x, const Tensor& dy) {
    for (Variable& parameter : mixer.parameters()) parameter.zero_grad();
    const Variable input(x, /*requires_grad=*/true);
    const Variable y = mixer.forward(input, {});
    y.backward(dy);
    Results results{y.data(), input.grad(), {}};
    for (const Variable& parameter : mixer.parameters()) results.grads.push_back(parameter.grad());
    return results;
  }

  static void expect_the_same_in_a_graph(int64_t width, int64_t tokens, DType dtype) {
    SCOPED_TRACE(::testing::Message() << to_string(dtype) << " " << tokens << " x " << width);
    const auto mixer = make_mixer(GetParam(), width);
    mixer->to(kGpu);
    const Shape shape{2, tokens, width};
    Tensor x = random_tensor(shape, dtype, 1).to(kGpu);
    const Tensor dy = random_tensor(shape, dtype, 2).to(kGpu);
    train(*mixer, x, dy);

    Graph graph(kGpu);
    Results replayed;
    graph.capture([&] { replayed = train(*mixer, x, dy); });
    EXPECT_GT(graph.nodes(), 10);
    const int64_t allocations = allocator(kGpu).stats().count;
    for (int i = 0; i < 3; ++i) graph.replay();
    EXPECT_EQ(allocator(kGpu).stats().count, allocations);

    // cuDNN adds up the gradient of queries in an order that varies.
    const double tolerance = dtype == DType::f32 ? 1e-6 : 5e-3;
    for (uint64_t seed = 3; seed < 6; ++seed) {
      const Tensor next = random_tensor(shape, dtype, seed).to(kGpu);
      const Results expected = train(*mixer, next, dy);
      x.copy_(next);
      graph.replay();
      EXPECT_LE(relative_error(replayed.y, expected.y), 1e-6);
      EXPECT_LE(relative_error(replayed.dx, expected.dx), tolerance);
      ASSERT_EQ(replayed.grads.size(), expected.grads.size());
      for (size_t i = 0; i < expected.grads.size(); ++i)
        EXPECT_LE(relative_error(replayed.grads[i], expected.grads[i]), tolerance)
            << mixer->named_parameters()[i].name;
    }
  }
};
INSTANTIATE_TEST_SUITE_P(All, MixerInAGraph, ::testing::ValuesIn(all_mixer_cases()),
                         [](const auto& info) { return name_of(info.param); });

TEST_P(MixerInAGraph, TrainsAsOutside) {
  expect_the_same_in_a_graph(kWidth, 150, DType::f32);
  expect_the_same_in_a_graph(kWidth, 150, DType::bf16);
}

TEST_P(MixerInAGraph, TrainsAsOutsideOnLongSequences) {
  expect_the_same_in_a_graph(256, 1024, DType::bf16);
}

class KernelsInAGraph : public testing::OnGpu {};

TEST_F(KernelsInAGraph, ChooseBlocksWithoutTheHost) {
  struct Problem {
    Tensor q, k, lse;
    Selection choose(const BlockSelectionOptions& options) const {
      return select_blocks(q, k, lse, 0, q.size(1), options);
    }
  };
  const BlockSelectionOptions options{.compression_block = 32,
                                      .compression_stride = 16,
                                      .key_block = 64,
                                      .count = 16,
                                      .query_tile = 4};
  const auto make = [](int64_t tokens, uint64_t seed) {
    const int64_t compressed = (tokens - 32) / 16 + 1;
    return Problem{random_tensor({2, tokens, 4, 64}, DType::f32, seed).to(kGpu),
                   random_tensor({2, compressed, 2, 64}, DType::f32, seed + 1).to(kGpu),
                   random_tensor({2, 4, tokens}, DType::f32, seed + 2).to(kGpu)};
  };
  // The second takes less shared memory, above what need not be asked for, of the same kernel.
  Problem first = make(4100, 1), second = make(1500, 4);
  first.choose(options);
  Graph graph(kGpu);
  Selection long_lists = second.choose(options), short_lists = second.choose(options);
  graph.capture([&] {
    long_lists = first.choose(options);
    short_lists = second.choose(options);
  });
  const Problem next = make(4100, 7), next_second = make(1500, 10);
  const Selection expected = next.choose(options), expected_second = next_second.choose(options);
  const auto put = [](Problem& to, const Problem& from) {
    to.q.copy_(from.q);
    to.k.copy_(from.k);
    to.lse.copy_(from.lse);
  };
  put(first, next);
  put(second, next_second);
  graph.replay();
  for (const auto& [found, wanted] :
       {std::pair(&long_lists, &expected), std::pair(&short_lists, &expected_second)}) {
    EXPECT_EQ(found->offsets().to_vector<int64_t>(), wanted->offsets().to_vector<int64_t>());
    EXPECT_EQ(found->blocks().to_vector<int32_t>(), wanted->blocks().to_vector<int32_t>());
    EXPECT_EQ(found->room(), wanted->total());
    EXPECT_EQ(transposed(*found).offsets().to_vector<int64_t>(),
              transposed(wanted->to(kCpu)).offsets().to_vector<int64_t>());
  }
}

/// A model of two layers of this schedule.
class ModelInAGraph : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (!is_available(kGpu)) GTEST_SKIP() << unavailable_reason(kGpu);
  }
};
INSTANTIATE_TEST_SUITE_P(All, ModelInAGraph,
                         ::testing::Values("full,nsa", "asa", "swa,mla", "gla,full"),
                         [](const auto& info) { return name_of({info.param}); });

TEST_P(ModelInAGraph, LearnsFromOtherTokens) {
  const nn::DecoderConfig config{
      .vocab_size = 120,
      .n_layers = 2,
      .d_model = kWidth,
      .d_ff = 96,
      .tie_embeddings = true,
      .compute_dtype = DType::bf16,
      .recompute = GetParam() == "gla,full" ? nn::Recompute::block : nn::Recompute::none};
  const AttentionConfig attention{
      .shape = {.d_model = kWidth, .n_heads = 4, .n_kv_heads = 2, .n_layers = 2},
      .schedule = GetParam()};
  Generator generator(5);
  nn::DecoderLM model(config, make_mixer_factory(attention, generator), generator);
  model.to(kGpu);
  const auto ids = [](uint64_t seed) {
    testing::Draw draw(seed);
    std::vector<int64_t> values(2 * 130);
    for (int64_t& value : values) value = draw(0, 119);
    return from_vector(values, {2, 130}).to(kGpu);
  };
  Tensor tokens = ids(1), targets = ids(2);
  const auto step = [&](const Tensor& in, const Tensor& out) {
    for (Variable& parameter : model.parameters()) parameter.zero_grad();
    const Variable loss = model.loss(in, out);
    loss.backward();
    std::vector<Tensor> results{loss.data()};
    for (const Variable& parameter : model.parameters()) results.push_back(parameter.grad());
    return results;
  };
  step(tokens, targets);
  Graph graph(kGpu);
  std::vector<Tensor> replayed;
  graph.capture([&] { replayed = step(tokens, targets); });
  for (uint64_t seed = 3; seed < 9; seed += 2) {
    const Tensor next_tokens = ids(seed), next_targets = ids(seed + 1);
    const std::vector<Tensor> expected = step(next_tokens, next_targets);
    tokens.copy_(next_tokens);
    targets.copy_(next_targets);
    graph.replay();
    ASSERT_EQ(replayed.size(), expected.size());
    for (size_t i = 0; i < expected.size(); ++i)
      EXPECT_LE(relative_error(replayed[i], expected[i]), i == 0 ? 1e-6 : 5e-3) << i;
  }
  tokens.fill_(120);
  graph.replay();
  EXPECT_THROW(current_stream(kGpu).synchronize(), IndexError);
}

}  // namespace
}  // namespace weft::attention
