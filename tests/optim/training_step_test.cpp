#include "weft/optim/training_step.h"

#include <limits>

#include "weft/autograd/functions/activation.h"
#include "weft/autograd/functions/arithmetic.h"
#include "weft/autograd/functions/linear.h"
#include "weft/autograd/functions/reduce.h"
#include "weft/optim/adamw.h"
#include "weft/optim/clip.h"

#include "optim_test_support.h"

namespace weft::optim {
namespace {

using autograd::Variable;

constexpr double kClip = 0.5;

/// A two-layer regression in f32.
NamedParameters make_model() {
  return {make_parameter("up", random_tensor({7, 5}, DType::f32, 1)),
          make_parameter("down", random_tensor({3, 7}, DType::f32, 2))};
}

TrainingStep::Loss loss_of(const NamedParameters& model) {
  return [model](const Tensor& inputs, const Tensor& targets, const Tensor& scale) {
    const Variable hidden = autograd::silu(autograd::linear(Variable(inputs), model[0].parameter));
    const Variable error =
        autograd::sub(autograd::linear(hidden, model[1].parameter), Variable(targets));
    return autograd::mul(autograd::sum(autograd::mul(error, error)), Variable(scale));
  };
}

MicroBatch rows(int64_t count, uint64_t seed) {
  return {random_tensor({count, 5}, DType::f32, seed),
          random_tensor({count, 3}, DType::f32, seed + 1), count};
}

MicroBatch slice(const MicroBatch& batch, int64_t begin, int64_t end) {
  return {batch.inputs.slice(0, begin, end), batch.targets.slice(0, begin, end), end - begin};
}

void expect_near(const NamedParameters& actual, const NamedParameters& expected, double bound) {
  for (size_t p = 0; p < actual.size(); ++p) {
    const std::vector<double> a = values_of(actual[p]);
    const std::vector<double> b = values_of(expected[p]);
    for (size_t i = 0; i < a.size(); ++i)
      ASSERT_NEAR(a[i], b[i], bound) << actual[p].name << " " << i;
  }
}

TEST(TrainingStep, EqualsItsPartsByHand) {
  const NamedParameters model = make_model();
  const NamedParameters by_hand = make_model();
  AdamW optimizer(default_groups(model));
  AdamW optimizer_by_hand(default_groups(by_hand));
  TrainingStep step(optimizer, kCpu, loss_of(model), {.grad_clip = kClip});
  for (int i = 0; i < 5; ++i) {
    const MicroBatch batch = rows(6, 10 + 2 * static_cast<uint64_t>(i));
    const double lr = 0.01 * (i + 1);
    const TrainingStep::Result result = step.run(lr, std::vector{batch});

    optimizer_by_hand.zero_grad();
    const Variable loss =
        loss_of(by_hand)(batch.inputs, batch.targets, scalar(1.0 / 6, DType::f32));
    loss.backward();
    const double norm = grad_norm(by_hand);
    optimizer_by_hand.step(lr, clip_scale(norm, kClip));
    EXPECT_FLOAT_EQ(static_cast<float>(result.loss), loss.data().item<float>());
    EXPECT_NEAR(result.grad_norm, norm, 1e-12 * norm);
    EXPECT_GT(norm, kClip);
    expect_near(model, by_hand, 1e-7);
  }
}

TEST(TrainingStep, MicroBatchesOfUnequalWeightAreOneBatch) {
  const NamedParameters whole = make_model();
  const NamedParameters parts = make_model();
  AdamW optimizer_whole(default_groups(whole));
  AdamW optimizer_parts(default_groups(parts));
  TrainingStep step_whole(optimizer_whole, kCpu, loss_of(whole), {.grad_clip = kClip});
  TrainingStep step_parts(optimizer_parts, kCpu, loss_of(parts), {.grad_clip = kClip});
  const MicroBatch batch = rows(9, 30);
  MicroBatch nothing = rows(2, 40);
  nothing.scored = 0;
  const auto a = step_whole.run(0.1, std::vector{batch});
  const auto b = step_parts.run(0.1, std::vector{slice(batch, 0, 2), nothing, slice(batch, 2, 9)});
  EXPECT_NEAR(a.loss, b.loss, 1e-6 * a.loss);
  EXPECT_NEAR(a.grad_norm, b.grad_norm, 1e-6 * a.grad_norm);
  expect_near(whole, parts, 1e-6);
}

TEST(TrainingStep, WithoutAScoredTargetNothingHappens) {
  const NamedParameters model = make_model();
  AdamW optimizer(default_groups(model));
  TrainingStep step(optimizer, kCpu, loss_of(model));
  MicroBatch batch = rows(2, 50);
  batch.scored = 0;
  const auto result = step.run(0.1, std::vector{batch});
  EXPECT_EQ(result.loss, 0);
  EXPECT_EQ(result.grad_norm, 0);
  expect_near(model, make_model(), 0);
}

TEST(TrainingStep, ALossOrGradientThatIsNotFiniteChangesNothing) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  for (const double bad : {kInfinity, std::numeric_limits<double>::quiet_NaN()}) {
    const NamedParameters model = make_model();
    AdamW optimizer(default_groups(model));
    TrainingStep step(optimizer, kCpu, loss_of(model), {.grad_clip = kClip});
    step.run(0.1, std::vector{rows(4, 60)});
    const std::vector<double> before = values_of(model[0]);
    const StateDict state = optimizer.state_dict();
    std::vector<std::vector<double>> moments;
    for (const NamedTensor& entry : state)
      if (entry.tensor.dtype() == DType::f32) moments.push_back(entry.tensor.to_vector<double>());
    MicroBatch batch = rows(4, 70);
    batch.targets.select(0, 1).select(0, 2).fill_(bad);
    const auto result = step.run(0.1, std::vector{batch});
    EXPECT_FALSE(std::isfinite(result.loss));
    EXPECT_FALSE(std::isfinite(result.grad_norm));
    EXPECT_EQ(values_of(model[0]), before);
    size_t at = 0;
    for (const NamedTensor& entry : optimizer.state_dict()) {
      if (entry.tensor.dtype() != DType::f32) continue;
      EXPECT_EQ(entry.tensor.to_vector<double>(), moments[at++]) << entry.name;
    }
    EXPECT_EQ(at, moments.size());
  }
}

/// A loss that overflows where its gradient does not.
TEST(TrainingStep, AnInfiniteLossWithFiniteGradientsChangesNothing) {
  const NamedParameters model = {make_parameter("w", ones({2}, DType::f32))};
  AdamW optimizer(default_groups(model));
  TrainingStep step(optimizer, kCpu, [&](const Tensor& inputs, const Tensor&, const Tensor&) {
    return autograd::sum(autograd::mul(model[0].parameter, Variable(inputs)));
  });
  const Tensor large = full({2}, 3e38, DType::f32);
  const auto result = step.run(0.1, std::vector{MicroBatch{large, large, 1}});
  EXPECT_TRUE(std::isinf(result.loss));
  EXPECT_TRUE(std::isfinite(result.grad_norm));
  EXPECT_EQ(values_of(model[0]), std::vector<double>({1, 1}));
}

TEST(TrainingStep, RefusesBadOptionsAndChangedBatches) {
  const NamedParameters model = make_model();
  AdamW optimizer(default_groups(model));
  EXPECT_THROW(TrainingStep(optimizer, kCpu, loss_of(model), {.grad_clip = -1}), ConfigError);
  TrainingStep step(optimizer, kCpu, loss_of(model));
  step.run(0.1, std::vector{rows(4, 80)});
  EXPECT_THROW(step.run(0.1, std::vector{rows(4, 80), rows(4, 90)}), ShapeError);
}

}  // namespace
}  // namespace weft::optim
