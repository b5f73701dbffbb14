// Steps that are replayed from a graph against steps that are computed anew, on the same GPU.
#include "weft/optim/training_step.h"

#include <cmath>
#include <memory>

#include "weft/autograd/functions/activation.h"
#include "weft/autograd/functions/arithmetic.h"
#include "weft/autograd/functions/dropout.h"
#include "weft/autograd/functions/linear.h"
#include "weft/autograd/functions/reduce.h"
#include "weft/autograd/functions/view.h"
#include "weft/optim/adamw.h"
#include "weft/optim/muon.h"
#include "weft/optim/sgd.h"
#include "weft/tensor/allocator.h"
#include "weft/tensor/error.h"
#include "weft/tensor/memory_limit.h"
#include "weft/tensor/ops/dropout.h"

#include "devices.h"

namespace weft::optim {
namespace {

using autograd::Variable;
using test::kGpu;
using test::random_tensor;

class CudaTrainingStep : public test::CudaTest {};

NamedParameters make_model(Device device) {
  const auto parameter = [&](const char* name, const Shape& shape, uint64_t seed) {
    return autograd::NamedParameter{
        name, Variable(random_tensor(shape, DType::f32, seed).to(device), /*requires_grad=*/true)};
  };
  return {parameter("up", {48, 33}, 1), parameter("bias", {48}, 2), parameter("down", {17, 48}, 3)};
}

/// With `dropout`, a third of what is hidden is dropped.
TrainingStep::Loss loss_of(const NamedParameters& model, DType compute = DType::f32,
                           Generator* dropout = nullptr) {
  return [=](const Tensor& inputs, const Tensor& targets, const Tensor& scale) {
    Variable hidden = autograd::silu(
        autograd::linear(Variable(inputs.to(compute)), model[0].parameter, model[1].parameter));
    if (dropout != nullptr) hidden = autograd::dropout(hidden, 1.0 / 3, *dropout);
    const Variable error = autograd::sub(
        autograd::to(autograd::linear(hidden, model[2].parameter), DType::f32), Variable(targets));
    return autograd::mul(autograd::sum(autograd::mul(error, error)), Variable(scale));
  };
}

MicroBatch batch_of(uint64_t seed, int64_t scored = 20) {
  return {random_tensor({20, 33}, DType::f32, seed), random_tensor({20, 17}, DType::f32, seed + 1),
          scored};
}

std::unique_ptr<Optimizer> make_optimizer(const std::string& name, const NamedParameters& model) {
  if (name == "muon") return std::make_unique<Muon>(split_for_muon(model));
  if (name == "sgd")
    return std::make_unique<Sgd>(default_groups(model), SgdOptions{.momentum = 0.9});
  return std::make_unique<AdamW>(default_groups(model));
}

void expect_equal(const NamedParameters& a, const NamedParameters& b) {
  for (size_t p = 0; p < a.size(); ++p)
    EXPECT_EQ(a[p].parameter.data().to_vector<float>(), b[p].parameter.data().to_vector<float>())
        << a[p].name;
}

TEST_F(CudaTrainingStep, ReplaysGiveTheBitsOfStepsComputedAnew) {
  for (const std::string name : {"adamw", "muon", "sgd"}) {
    for (const DType compute : {DType::f32, DType::bf16}) {
      const NamedParameters replayed = make_model(kGpu);
      const NamedParameters eager = make_model(kGpu);
      const auto optimizer = make_optimizer(name, replayed);
      const auto optimizer_eager = make_optimizer(name, eager);
      TrainingStep step(*optimizer, kGpu, loss_of(replayed, compute), {.grad_clip = 1});
      TrainingStep step_eager(*optimizer_eager, kGpu, loss_of(eager, compute),
                              {.grad_clip = 1, .use_graph = false});
      for (int i = 0; i < 12; ++i) {
        const double lr = 0.002 * (1 + i % 5);
        const auto seed = static_cast<uint64_t>(10 * i);
        // The number of scored targets differs from step to step.
        const std::vector<MicroBatch> batches = {batch_of(seed, 20 - i), batch_of(seed + 5)};
        const auto a = step.run(lr, batches);
        const auto b = step_eager.run(lr, batches);
        EXPECT_EQ(a.loss, b.loss) << name << " step " << i;
        EXPECT_EQ(a.grad_norm, b.grad_norm) << name << " step " << i;
        EXPECT_EQ(step.is_replayed(), i > 0) << step.graph_refusal();
      }
      EXPECT_EQ(step.graph_refusal(), "");
      EXPECT_FALSE(step_eager.is_replayed());
      expect_equal(replayed, eager);
    }
  }
}

TEST_F(CudaTrainingStep, FollowsTheCpu) {
  const NamedParameters gpu = make_model(kGpu);
  const NamedParameters cpu = make_model(kCpu);
  AdamW optimizer_gpu(default_groups(gpu));
  AdamW optimizer_cpu(default_groups(cpu));
  TrainingStep step_gpu(optimizer_gpu, kGpu, loss_of(gpu), {.grad_clip = 1});
  TrainingStep step_cpu(optimizer_cpu, kCpu, loss_of(cpu), {.grad_clip = 1});
  for (int i = 0; i < 20; ++i) {
    const std::vector<MicroBatch> batches = {batch_of(static_cast<uint64_t>(i))};
    const auto a = step_gpu.run(0.01, batches);
    const auto b = step_cpu.run(0.01, batches);
    EXPECT_NEAR(a.loss, b.loss, 1e-4 * b.loss) << i;
    EXPECT_NEAR(a.grad_norm, b.grad_norm, 1e-4 * b.grad_norm) << i;
  }
}

TEST_F(CudaTrainingStep, MicroBatchesAreAStepOverTheirUnion) {
  for (const DType compute : {DType::f32, DType::bf16}) {
    SCOPED_TRACE(to_string(compute));
    const NamedParameters parts = make_model(kGpu), whole = make_model(kGpu);
    const auto optimizer = make_optimizer("sgd", parts),
               optimizer_whole = make_optimizer("sgd", whole);
    TrainingStep step(*optimizer, kGpu, loss_of(parts, compute), {.grad_clip = 1});
    TrainingStep step_whole(*optimizer_whole, kGpu, loss_of(whole, compute), {.grad_clip = 1});
    for (uint64_t i = 0; i < 4; ++i) {
      const MicroBatch first = batch_of(30 * i), second = batch_of(30 * i + 10);
      MicroBatch both{empty({40, 33}), empty({40, 17}), 40};
      for (const auto& [batch, at] : {std::pair{&first, 0}, std::pair{&second, 20}}) {
        both.inputs.slice(0, at, at + 20).copy_(batch->inputs);
        both.targets.slice(0, at, at + 20).copy_(batch->targets);
      }
      const auto a = step.run(0.02, std::vector{first, second});
      const auto b = step_whole.run(0.02, std::vector{both});
      const double tolerance = compute == DType::f32 ? 1e-5 : 2e-3;
      EXPECT_NEAR(a.loss, b.loss, tolerance * b.loss) << i;
      EXPECT_NEAR(a.grad_norm, b.grad_norm, tolerance * b.grad_norm) << i;
    }
    // Sums over micro-batches lose nothing to the type of the activations.
    for (size_t p = 0; p < parts.size(); ++p) {
      EXPECT_EQ(parts[p].parameter.grad().dtype(), DType::f32);
      test::expect_close(parts[p].parameter.data(), whole[p].parameter.data().to(kCpu), 0,
                         compute == DType::f32 ? 1e-5 : 2e-3, parts[p].name.c_str());
    }
  }
}

TEST_F(CudaTrainingStep, ParametersChangedFromOutsideAreSeen) {
  const NamedParameters replayed = make_model(kGpu);
  const NamedParameters eager = make_model(kGpu);
  AdamW optimizer(default_groups(replayed));
  AdamW optimizer_eager(default_groups(eager));
  TrainingStep step(optimizer, kGpu, loss_of(replayed, DType::bf16));
  TrainingStep step_eager(optimizer_eager, kGpu, loss_of(eager, DType::bf16), {.use_graph = false});
  for (int i = 0; i < 9; ++i) {
    if (i == 4) {
      for (const NamedParameters& model : {replayed, eager}) {
        Variable handle = model[0].parameter;
        handle.mutable_data().copy_(random_tensor({48, 33}, DType::f32, 99).to(kGpu));
      }
    }
    const std::vector<MicroBatch> batches = {batch_of(static_cast<uint64_t>(i))};
    EXPECT_EQ(step.run(0.01, batches).loss, step_eager.run(0.01, batches).loss) << i;
  }
  EXPECT_TRUE(step.is_replayed());
  expect_equal(replayed, eager);
}

TEST_F(CudaTrainingStep, ABadBatchChangesNothingAndTheNextOneGoesOn) {
  for (const bool use_graph : {true, false}) {
    const NamedParameters model = make_model(kGpu);
    AdamW optimizer(default_groups(model));
    TrainingStep step(optimizer, kGpu, loss_of(model), {.grad_clip = 1, .use_graph = use_graph});
    for (int i = 0; i < 3; ++i) step.run(0.01, std::vector{batch_of(static_cast<uint64_t>(i))});
    EXPECT_EQ(step.is_replayed(), use_graph);
    const std::vector<float> before = model[0].parameter.data().to_vector<float>();
    for (const double value : {std::nan(""), HUGE_VAL}) {
      MicroBatch bad = batch_of(7);
      bad.targets.select(0, 3).fill_(value);
      const TrainingStep::Result result = step.run(0.01, std::vector{bad});
      EXPECT_FALSE(std::isfinite(result.loss)) << result.loss;
      EXPECT_FALSE(result.updated);
      EXPECT_EQ(model[0].parameter.data().to_vector<float>(), before);
    }
    // A rate far too large makes a step that is taken, and all later ones are not.
    EXPECT_TRUE(std::isfinite(step.run(0.01, std::vector{batch_of(8)}).loss));
    EXPECT_NE(model[0].parameter.data().to_vector<float>(), before);
    step.run(1e30, std::vector{batch_of(9)});
    const std::vector<float> exploded = model[0].parameter.data().to_vector<float>();
    for (uint64_t seed = 10; seed < 12; ++seed) {
      EXPECT_FALSE(step.run(0.01, std::vector{batch_of(seed)}).updated);
      EXPECT_EQ(model[0].parameter.data().to_vector<float>(), exploded);
    }
    EXPECT_EQ(step.is_replayed(), use_graph) << step.graph_refusal();
  }
}

TEST_F(CudaTrainingStep, ABatchThatDoesNotFitLeavesNoMemoryTaken) {
  const NamedParameters model = make_model(kGpu);
  AdamW optimizer(default_groups(model));
  const auto run = [&](const MicroBatch& batch, int steps) {
    TrainingStep step(optimizer, kGpu, loss_of(model), {.grad_clip = 1});
    TrainingStep::Result result;
    for (int i = 0; i < steps; ++i) result = step.run(0.01, std::vector{batch});
    return result;
  };
  Allocator& memory = allocator(kGpu);
  run(batch_of(1), 1);  // makes the optimizer's moments
  optimizer.zero_grad();
  memory.empty_cache();
  const AllocatorStats before = memory.stats();
  set_cuda_memory_limit(kGpu, static_cast<size_t>(before.reserved) + (size_t{320} << 20));
  // Inputs and targets take 200 MB, each layer's output as much again.
  constexpr int64_t kRows = 1 << 20;
  const MicroBatch large{zeros({kRows, 33}), zeros({kRows, 17}), kRows};
  EXPECT_THROW(run(large, 1), OutOfMemoryError);
  optimizer.zero_grad();
  EXPECT_EQ(memory.stats().allocated, before.allocated);
  memory.empty_cache();
  EXPECT_EQ(memory.stats().reserved, before.reserved);
  EXPECT_TRUE(std::isfinite(run(batch_of(2), 4).loss));
  set_cuda_memory_limit(kGpu, 0);
}

TEST_F(CudaTrainingStep, ALossThatWaitsForTheGpuIsComputedAnewEachTime) {
  const NamedParameters model = make_model(kGpu);
  const NamedParameters plain = make_model(kGpu);
  AdamW optimizer(default_groups(model));
  AdamW optimizer_plain(default_groups(plain));
  int calls = 0;
  const TrainingStep::Loss inner = loss_of(model);
  TrainingStep step(optimizer, kGpu,
                    [&](const Tensor& inputs, const Tensor& targets, const Tensor& scale) {
                      Variable loss = inner(inputs, targets, scale);
                      loss.data().item<double>();
                      ++calls;
                      return loss;
                    });
  TrainingStep step_plain(optimizer_plain, kGpu, loss_of(plain), {.use_graph = false});
  for (int i = 0; i < 5; ++i) {
    const std::vector<MicroBatch> batches = {batch_of(static_cast<uint64_t>(i))};
    EXPECT_EQ(step.run(0.01, batches).loss, step_plain.run(0.01, batches).loss);
  }
  EXPECT_EQ(calls, 5);  // the attempt to record ended before it counted
  EXPECT_FALSE(step.is_replayed());
  EXPECT_NE(step.graph_refusal(), "");
  expect_equal(model, plain);
}

TEST_F(CudaTrainingStep, ReplaysDropWhatStepsComputedAnewDrop) {
  for (const DType compute : {DType::f32, DType::bf16}) {
    SCOPED_TRACE(to_string(compute));
    const NamedParameters replayed = make_model(kGpu);
    const NamedParameters eager = make_model(kGpu);
    AdamW optimizer(default_groups(replayed));
    AdamW optimizer_eager(default_groups(eager));
    Generator generator(11), generator_eager(11);
    TrainingStep step(optimizer, kGpu, loss_of(replayed, compute, &generator),
                      {.grad_clip = 1, .generators = {&generator}});
    TrainingStep step_eager(optimizer_eager, kGpu, loss_of(eager, compute, &generator_eager),
                            {.grad_clip = 1, .use_graph = false});
    const auto set_states = [&](const GeneratorState& state) {
      generator.set_state(state);
      generator_eager.set_state(state);
    };
    for (int i = 0; i < 14; ++i) {
      SCOPED_TRACE(::testing::Message() << "step " << i);
      const auto seed = static_cast<uint64_t>(10 * i);
      std::vector<MicroBatch> batches = {batch_of(seed), batch_of(seed + 5)};
      // A step that is not taken draws all the same; one without a scored target does not.
      if (i == 5) batches[0].targets.select(0, 3).fill_(std::nan(""));
      if (i == 7) batches[0].scored = batches[1].scored = 0;
      if (i == 9) set_states({12, 4});   // another seed is another recording
      if (i == 11) set_states({12, 0});  // a state from before
      const TrainingStep::Result a = step.run(0.01, batches);
      const TrainingStep::Result b = step_eager.run(0.01, batches);
      EXPECT_EQ(a.updated, i != 5 && i != 7);
      EXPECT_EQ(a.updated, b.updated);
      if (a.updated) {
        EXPECT_EQ(a.loss, b.loss);
        EXPECT_EQ(a.grad_norm, b.grad_norm);
      }
      EXPECT_EQ(generator.state().seed, generator_eager.state().seed);
      EXPECT_EQ(generator.state().offset, generator_eager.state().offset);
      EXPECT_EQ(step.is_replayed(), i > 0) << step.graph_refusal();
    }
    EXPECT_EQ(step.graph_refusal(), "");
    expect_equal(replayed, eager);
  }
}

TEST_F(CudaTrainingStep, BackwardOfAReplayDropsWhatItsForwardDropped) {
  // The gradient of a weight is not zero where it was kept. The rate of learning is 0.
  const Tensor weight = random_tensor({1000}, DType::f32, 1, 1, 2);
  const Variable parameter(weight.to(kGpu), /*requires_grad=*/true);
  const NamedParameters model{{"weight", parameter}};
  Sgd optimizer(default_groups(model));
  Generator generator(5), on_cpu(5);
  Tensor dropped;
  TrainingStep step(optimizer, kGpu,
                    [&](const Tensor&, const Tensor&, const Tensor& scale) {
                      const Variable kept = autograd::dropout(parameter, 0.25, generator);
                      dropped = kept.data();
                      return autograd::mul(autograd::sum(kept), Variable(scale));
                    },
                    {.generators = {&generator}});
  std::vector<float> last;
  for (int i = 0; i < 6; ++i) {
    step.run(0, std::vector{batch_of(1, 1)});
    EXPECT_EQ(step.is_replayed(), i > 0) << step.graph_refusal();
    const GeneratorState before = on_cpu.state();
    const std::vector<float> expected = dropout(weight, 0.25, on_cpu).to_vector<float>();
    EXPECT_EQ(dropped.to_vector<float>(), expected) << "step " << i;
    EXPECT_EQ(parameter.grad().to_vector<float>(),
              dropout(ones({1000}), 0.25, before).to_vector<float>())
        << "step " << i;
    EXPECT_NE(expected, last);
    last = expected;
  }
  EXPECT_EQ(generator.state().offset, on_cpu.state().offset);
}

TEST_F(CudaTrainingStep, StepsThatOverflowDrawToo) {
  const NamedParameters replayed = make_model(kGpu);
  const NamedParameters eager = make_model(kGpu);
  AdamW optimizer(default_groups(replayed));
  AdamW optimizer_eager(default_groups(eager));
  LossScaler scaler({.initial_scale = 0x1p12}, kGpu), scaler_eager({.initial_scale = 0x1p12}, kGpu);
  Generator generator(11), generator_eager(11);
  TrainingStep step(optimizer, kGpu, loss_of(replayed, DType::f16, &generator),
                    {.grad_clip = 1, .loss_scaler = &scaler, .generators = {&generator}});
  TrainingStep step_eager(optimizer_eager, kGpu, loss_of(eager, DType::f16, &generator_eager),
                          {.grad_clip = 1, .use_graph = false, .loss_scaler = &scaler_eager});
  int skipped = 0;
  for (int i = 0; i < 20; ++i) {
    const std::vector<MicroBatch> batches = {batch_of(static_cast<uint64_t>(10 * i))};
    const TrainingStep::Result a = step.run(0.01, batches);
    const TrainingStep::Result b = step_eager.run(0.01, batches);
    ASSERT_EQ(a.updated, b.updated) << i;
    ASSERT_EQ(a.loss, b.loss) << i;
    EXPECT_EQ(generator.state().offset, generator_eager.state().offset) << i;
    if (i > 0 && !a.updated) ++skipped;
    if (i == 19) {
      EXPECT_TRUE(a.updated);
    }
  }
  EXPECT_TRUE(step.is_replayed()) << step.graph_refusal();
  EXPECT_GT(skipped, 0) << "no replayed step overflowed";
  EXPECT_EQ(scaler.scale(), scaler_eager.scale());
  expect_equal(replayed, eager);
}

TEST_F(CudaTrainingStep, StepsOfOtherShapesShareAStream) {
  const NamedParameters replayed[] = {make_model(kGpu), make_model(kGpu)};
  const NamedParameters eager[] = {make_model(kGpu), make_model(kGpu)};
  Generator generator(11), generator_eager(11);
  std::vector<std::unique_ptr<Optimizer>> optimizers;
  std::vector<std::unique_ptr<TrainingStep>> steps, steps_eager;
  for (const size_t i : {size_t{0}, size_t{1}}) {
    optimizers.push_back(make_optimizer("sgd", replayed[i]));
    steps.push_back(std::make_unique<TrainingStep>(
        *optimizers.back(), kGpu, loss_of(replayed[i], DType::f32, &generator),
        TrainingStepOptions{.generators = {&generator}}));
    optimizers.push_back(make_optimizer("sgd", eager[i]));
    steps_eager.push_back(std::make_unique<TrainingStep>(
        *optimizers.back(), kGpu, loss_of(eager[i], DType::f32, &generator_eager),
        TrainingStepOptions{.use_graph = false}));
  }
  for (int i = 0; i < 12; ++i) {
    const size_t which = i % 3 == 2 ? 1 : 0;
    const MicroBatch batch = batch_of(static_cast<uint64_t>(i));
    const int64_t rows = which == 0 ? 20 : 13;
    const std::vector<MicroBatch> batches = {
        {batch.inputs.slice(0, 0, rows), batch.targets.slice(0, 0, rows), rows}};
    EXPECT_EQ(steps[which]->run(0.001, batches).loss, steps_eager[which]->run(0.001, batches).loss)
        << i;
    EXPECT_EQ(generator.state().offset, generator_eager.state().offset) << i;
    // Nor does a batch that does not fit draw anything.
    if (i > 2) {
      EXPECT_THROW(steps[1 - which]->run(0.001, batches), ShapeError);
    }
  }
  for (const size_t i : {size_t{0}, size_t{1}}) {
    EXPECT_TRUE(steps[i]->is_replayed()) << steps[i]->graph_refusal();
    expect_equal(replayed[i], eager[i]);
  }
}

TEST_F(CudaTrainingStep, ALossThatDrawsFromAnUnknownStreamIsComputedAnewEachTime) {
  const NamedParameters model = make_model(kGpu);
  const NamedParameters plain = make_model(kGpu);
  AdamW optimizer(default_groups(model));
  AdamW optimizer_plain(default_groups(plain));
  Generator generator(11), generator_plain(11), other;
  TrainingStep step(optimizer, kGpu, loss_of(model, DType::f32, &generator),
                    {.generators = {&other}});
  TrainingStep step_plain(optimizer_plain, kGpu, loss_of(plain, DType::f32, &generator_plain),
                          {.use_graph = false});
  for (int i = 0; i < 5; ++i) {
    const std::vector<MicroBatch> batches = {batch_of(static_cast<uint64_t>(i))};
    EXPECT_EQ(step.run(0.01, batches).loss, step_plain.run(0.01, batches).loss);
    EXPECT_EQ(generator.state().offset, generator_plain.state().offset);
  }
  EXPECT_FALSE(step.is_replayed());
  EXPECT_NE(step.graph_refusal().find("dropout"), std::string::npos) << step.graph_refusal();
  expect_equal(model, plain);
}

TEST_F(CudaTrainingStep, ManyReplaysTakeNoMoreMemory) {
  const NamedParameters model = make_model(kGpu);
  AdamW optimizer(default_groups(model));
  TrainingStep step(optimizer, kGpu, loss_of(model), {.grad_clip = 1});
  const auto run = [&] { step.run(0.001, std::vector{batch_of(1)}); };
  for (int i = 0; i < 4; ++i) run();
  const AllocatorStats before = allocator(kGpu).stats();
  for (int i = 0; i < 100; ++i) run();
  const AllocatorStats after = allocator(kGpu).stats();
  EXPECT_EQ(after.allocated, before.allocated);
  EXPECT_EQ(after.reserved, before.reserved);
}

}  // namespace
}  // namespace weft::optim
