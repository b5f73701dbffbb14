// Training of small decoders of every mechanism by whole steps, recorded and step by step: against
// the CPU over 200 steps, to the bit where results must repeat, and where numbers are not finite.
#include <algorithm>
#include <cmath>
#include <limits>

#include "weft/optim/adamw.h"
#include "weft/optim/training_step.h"
#include "weft/tensor/determinism.h"
#include "weft/tensor/ops/compare.h"
#include "weft/tensor/ops/random.h"

#include "decoder_cases.h"

namespace weft::nn {
namespace {

using attention::testing::kGpu;
using testing::all_decoder_cases;
using testing::all_same;
using testing::DecoderCase;
using testing::DecoderShape;
using testing::kVocab;
using testing::make_decoder;

/// Sequences in which three tokens of four follow from the one before: something to learn, and a
/// loss that stays well above zero.
optim::MicroBatch batch_of(uint64_t seed, int64_t batch, int64_t tokens) {
  Generator generator(seed);
  const std::vector<int64_t> noise =
      randint(0, 4 * kVocab, {batch, tokens + 1}, generator, DType::i64).to_vector<int64_t>();
  std::vector<int64_t> inputs, targets;
  for (int64_t b = 0; b < batch; ++b) {
    int64_t token = noise[static_cast<size_t>(b * (tokens + 1))] % kVocab;
    for (int64_t t = 1; t <= tokens; ++t) {
      inputs.push_back(token);
      const int64_t drawn = noise[static_cast<size_t>(b * (tokens + 1) + t)];
      token = drawn < kVocab ? drawn : (5 * token + 7) % kVocab;
      targets.push_back(token);
    }
  }
  return {from_vector(inputs, {batch, tokens}), from_vector(targets, {batch, tokens}),
          batch * tokens};
}

/// A decoder in training with AdamW.
struct Training {
  Training(std::unique_ptr<DecoderLM> decoder, Device device, bool use_graph = true)
      : model(move_to(std::move(decoder), device)),
        optimizer(optim::default_groups(model->named_parameters())),
        step(optimizer, device,
             [this](const Tensor& inputs, const Tensor& targets, const Tensor& scale) {
               return model->loss(inputs, targets, &dropout, scale);
             },
             {.grad_clip = 1, .use_graph = use_graph, .generators = {&dropout}}) {}
  Training(const Training&) = delete;
  Training& operator=(const Training&) = delete;

  static std::unique_ptr<DecoderLM> move_to(std::unique_ptr<DecoderLM> decoder, Device device) {
    decoder->to(device);
    return decoder;
  }

  /// The loss of step `number`, whose learning rate rises at first.
  double run(int number, int64_t batch = 4, int64_t tokens = 48) {
    const double lr = 2e-3 * std::min(1.0, (number + 1) / 20.0);
    return step.run(lr, std::vector{batch_of(static_cast<uint64_t>(number), batch, tokens)}).loss;
  }

  std::unique_ptr<DecoderLM> model;
  Generator dropout{11};
  optim::AdamW optimizer;
  optim::TrainingStep step;
};

/// Results repeat to the bit for a scope.
struct DeterministicScope {
  DeterministicScope() { set_deterministic(true); }
  ~DeterministicScope() { set_deterministic(false); }
};

class DecoderTraining : public testing::EachDecoderOnGpu {};
INSTANTIATE_TEST_SUITE_P(All, DecoderTraining, ::testing::ValuesIn(all_decoder_cases()),
                         [](const auto& info) { return info.param.name; });

TEST_P(DecoderTraining, FollowsTheCpuFor200Steps) {
  Training cpu(make_decoder(GetParam()), kCpu), gpu(make_decoder(GetParam()), kGpu);
  struct Furthest {
    double error = 0;
    int step = 0;
  } early, late;
  double first = 0, last = 0;
  for (int step = 0; step < 200; ++step) {
    const double expected = cpu.run(step), got = gpu.run(step);
    ASSERT_TRUE(std::isfinite(got)) << "step " << step << ": " << got << " and " << expected;
    if (step < 10) first += expected;
    if (step >= 190) last += expected;
    Furthest& furthest = step < 20 ? early : late;
    const double error = std::fabs(got - expected) / expected;
    if (error > furthest.error) furthest = {error, step};
  }
  EXPECT_TRUE(gpu.step.is_replayed()) << gpu.step.graph_refusal();
  EXPECT_LE(early.error, 1e-4) << "at step " << early.step;
  EXPECT_LE(late.error, 1e-2) << "at step " << late.step;
  EXPECT_LT(last, 0.8 * first) << "the model learned too little for a comparison";
}

/// Losses of some steps and what they led to.
struct Course {
  std::vector<double> losses;
  StateDict weights, moments;
};

Course course_of(const DecoderCase& variant, DType dtype, const DecoderShape& shape, int64_t batch,
                 int64_t tokens, int steps, bool use_graph) {
  Training training(make_decoder(variant, dtype, Recompute::none, shape), kGpu, use_graph);
  Course course;
  for (int step = 0; step < steps; ++step)
    course.losses.push_back(training.run(step, batch, tokens));
  EXPECT_EQ(training.step.is_replayed(), use_graph) << training.step.graph_refusal();
  course.weights = training.model->state_dict();
  course.moments = training.optimizer.state_dict();
  return course;
}

void expect_same(const Course& a, const Course& b, const char* what) {
  ASSERT_EQ(a.losses.size(), b.losses.size());
  for (size_t step = 0; step < a.losses.size(); ++step)
    ASSERT_EQ(a.losses[step], b.losses[step]) << what << ", first at step " << step;
  EXPECT_TRUE(all_same(a.weights, b.weights)) << what << ": the losses agree, weights do not";
  EXPECT_TRUE(all_same(a.moments, b.moments)) << what << ": the losses agree, moments do not";
}

StateDict copies_of(const StateDict& state) {
  StateDict copies;
  for (const NamedTensor& named : state) copies.push_back({named.name, named.tensor.clone()});
  return copies;
}

TEST_P(DecoderTraining, RepeatsToTheBitWhereItMust) {
  const DeterministicScope deterministic;
  struct Size {
    DType dtype;
    DecoderShape shape;
    int64_t batch, tokens;
    int steps;
  };
  // The last is one for which cuDNN's attention and timed algorithms would be taken otherwise.
  const std::vector<Size> sizes = {
      {DType::f32, {}, 4, 48, 12},
      {DType::bf16, {}, 4, 48, 12},
      {DType::bf16, {.d_model = 256, .d_ff = 704, .init_std = 0.05}, 8, 512, 5}};
  for (const Size& size : sizes) {
    SCOPED_TRACE(::testing::Message() << to_string(size.dtype) << ", width " << size.shape.d_model);
    const auto run = [&](bool use_graph) {
      return course_of(GetParam(), size.dtype, size.shape, size.batch, size.tokens, size.steps,
                       use_graph);
    };
    const Course eager = run(false), recorded = run(true);
    expect_same(run(false), eager, "op by op, twice");
    expect_same(run(true), recorded, "recorded, twice");
    expect_same(recorded, eager, "recorded and op by op");
  }
}

constexpr Recompute kEveryRecompute[] = {Recompute::none, Recompute::elementwise,
                                         Recompute::attention, Recompute::block};
constexpr DecoderShape kDropping{.dropout = 0.2};

TEST_P(DecoderTraining, ReplaysDropWhatStepsComputedAnewDrop) {
  const DeterministicScope deterministic;
  for (const Recompute recompute : kEveryRecompute) {
    SCOPED_TRACE(::testing::Message() << "recompute " << static_cast<int>(recompute));
    Training recorded(make_decoder(GetParam(), DType::bf16, recompute, kDropping), kGpu);
    Training eager(make_decoder(GetParam(), DType::bf16, recompute, kDropping), kGpu,
                   /*use_graph=*/false);
    for (int step = 0; step < 8; ++step) {
      ASSERT_EQ(recorded.run(step), eager.run(step)) << "step " << step;
      ASSERT_EQ(recorded.dropout.state().offset, eager.dropout.state().offset) << "step " << step;
      // To evaluate the model draws nothing.
      const EvalModeGuard evaluated(*recorded.model);
      recorded.model->token_losses(batch_of(99, 2, 40).inputs, batch_of(99, 2, 40).targets);
    }
    EXPECT_TRUE(recorded.step.is_replayed()) << recorded.step.graph_refusal();
    EXPECT_TRUE(all_same(recorded.model->state_dict(), eager.model->state_dict()));
    EXPECT_TRUE(all_same(recorded.optimizer.state_dict(), eager.optimizer.state_dict()));
  }
}

TEST_P(DecoderTraining, DropsOnAsSavedAfterSomeReplays) {
  const DeterministicScope deterministic;
  for (const Recompute recompute : {Recompute::none, Recompute::block}) {
    SCOPED_TRACE(::testing::Message() << "recompute " << static_cast<int>(recompute));
    const auto decoder = [&] {
      return make_decoder(GetParam(), DType::bf16, recompute, kDropping);
    };
    Training whole(decoder(), kGpu), resumed(decoder(), kGpu);
    for (int step = 0; step < 5; ++step) whole.run(step);
    resumed.model->load_state_dict(whole.model->state_dict());
    resumed.optimizer.load_state_dict(whole.optimizer.state_dict());
    resumed.dropout.set_state(whole.dropout.state());
    for (int step = 5; step < 10; ++step)
      ASSERT_EQ(resumed.run(step), whole.run(step)) << "step " << step;
    // Once more from there, in a step that is replayed already.
    const Course saved{.losses = {},
                       .weights = copies_of(whole.model->state_dict()),
                       .moments = copies_of(whole.optimizer.state_dict())};
    const GeneratorState state = whole.dropout.state();
    const double expected = whole.run(10);
    whole.model->load_state_dict(saved.weights);
    whole.optimizer.load_state_dict(saved.moments);
    whole.dropout.set_state(state);
    EXPECT_EQ(whole.run(10), expected);
    EXPECT_EQ(resumed.run(10), expected);
    EXPECT_TRUE(whole.step.is_replayed()) << whole.step.graph_refusal();
    EXPECT_TRUE(resumed.step.is_replayed()) << resumed.step.graph_refusal();
    // With the masks of another step the loss is another one.
    whole.model->load_state_dict(saved.weights);
    whole.optimizer.load_state_dict(saved.moments);
    EXPECT_NE(whole.run(10), expected);
  }
}

TEST_P(DecoderTraining, FollowsTheCpuWithDropout) {
  Training cpu(make_decoder(GetParam(), DType::f32, Recompute::none, kDropping), kCpu);
  Training gpu(make_decoder(GetParam(), DType::f32, Recompute::none, kDropping), kGpu);
  for (int step = 0; step < 20; ++step) {
    const double expected = cpu.run(step), got = gpu.run(step);
    ASSERT_NEAR(got, expected, 1e-4 * expected) << "step " << step;
    ASSERT_EQ(gpu.dropout.state().offset, cpu.dropout.state().offset);
  }
  EXPECT_TRUE(gpu.step.is_replayed()) << gpu.step.graph_refusal();
}

/// Writes one element of a weight where it lies.
void put(DecoderLM& model, const std::string& name, double value) {
  for (autograd::NamedParameter& named : model.named_parameters()) {
    if (named.name == name) named.parameter.mutable_data().view({-1}).slice(0, 5, 6).fill_(value);
  }
}

TEST_P(DecoderTraining, NothingChangesWhereNumbersAreNotFinite) {
  const DeterministicScope deterministic;
  const std::string poisoned = "model.layers.1.mlp.up_proj.weight";
  for (const bool use_graph : {true, false}) {
    for (const double bad : {std::nan(""), std::numeric_limits<double>::infinity()}) {
      SCOPED_TRACE(::testing::Message() << (use_graph ? "recorded, " : "op by op, ") << bad);
      Training training(make_decoder(GetParam(), DType::bf16), kGpu, use_graph);
      Training untouched(make_decoder(GetParam(), DType::bf16), kGpu, use_graph);
      for (int step = 0; step < 4; ++step) EXPECT_EQ(training.run(step), untouched.run(step));
      ASSERT_EQ(training.step.is_replayed(), use_graph) << training.step.graph_refusal();
      double value = 0;
      for (const NamedTensor& weight : training.model->state_dict()) {
        if (weight.name == poisoned) value = weight.tensor.view({-1}).select(0, 5).item<double>();
      }
      put(*training.model, poisoned, bad);
      EXPECT_FALSE(std::isfinite(training.run(4)));
      EXPECT_NE(training.model->find_non_finite(batch_of(4, 4, 48).inputs), "the loss");
      put(*training.model, poisoned, value);
      EXPECT_TRUE(all_same(training.model->state_dict(), untouched.model->state_dict()));
      EXPECT_TRUE(all_same(training.optimizer.state_dict(), untouched.optimizer.state_dict()));
      // The step that was not taken leaves no trace.
      for (int step = 5; step < 8; ++step)
        EXPECT_EQ(training.run(step), untouched.run(step)) << "step " << step;
      EXPECT_EQ(training.step.is_replayed(), use_graph) << training.step.graph_refusal();
    }
  }
}

}  // namespace
}  // namespace weft::nn
