// Every mechanism in a graph of the GPU: forward and backward, captured once and replayed on other
// input, give what they give when they run at once.
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

class ModelInAGraph : public testing::OnGpu {};

TEST_F(ModelInAGraph, LearnsFromOtherTokens) {
  const nn::DecoderConfig config{.vocab_size = 120,
                                 .n_layers = 2,
                                 .d_model = kWidth,
                                 .d_ff = 96,
                                 .tie_embeddings = true,
                                 .compute_dtype = DType::bf16};
  const AttentionConfig attention{
      .shape = {.d_model = kWidth, .n_heads = 4, .n_kv_heads = 2, .n_layers = 2},
      .schedule = "full,nsa"};
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
