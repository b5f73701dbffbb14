// Whole optimizers on a GPU: numbers read from its memory, skipped steps, copies of weights,
// graphs.
#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "weft/autograd/named_parameter.h"
#include "weft/optim/adamw.h"
#include "weft/optim/clip.h"
#include "weft/optim/loss_scaler.h"
#include "weft/optim/muon.h"
#include "weft/optim/sgd.h"
#include "weft/tensor/graph.h"
#include "weft/tensor/ops/linear.h"

#include "devices.h"

namespace weft::optim {
namespace {

using autograd::Variable;
using test::expect_same;
using test::kGpu;
using test::mirrored;
using test::random_tensor;

struct Kind {
  const char* name;
  std::unique_ptr<Optimizer> (*make)(const NamedParameters&);
};

constexpr Kind kKinds[] = {
    {"sgd",
     [](const NamedParameters& p) -> std::unique_ptr<Optimizer> {
       return std::make_unique<Sgd>(default_groups(p));
     }},
    {"nesterov",
     [](const NamedParameters& p) -> std::unique_ptr<Optimizer> {
       return std::make_unique<Sgd>(
           default_groups(p), SgdOptions{.momentum = 0.9, .weight_decay = 0.01, .nesterov = true});
     }},
    {"adamw",
     [](const NamedParameters& p) -> std::unique_ptr<Optimizer> {
       return std::make_unique<AdamW>(default_groups(p));
     }},
    {"muon", [](const NamedParameters& p) -> std::unique_ptr<Optimizer> {
       return std::make_unique<Muon>(split_for_muon(p));
     }}};

class CudaOptimizer : public test::CudaTest {};

NamedParameter parameter(const std::string& name, const Tensor& value) {
  return {name, Variable(value, /*requires_grad=*/true)};
}

/// Vectors and matrices of many sizes, slices of one storage that begin at odd elements among them.
NamedParameters model(DType dtype, Device device = kGpu) {
  NamedParameters parameters;
  uint64_t seed = 0;
  const auto add = [&](const Tensor& value) {
    parameters.push_back(parameter("p" + std::to_string(parameters.size()), value));
  };
  for (const Shape& shape : std::vector<Shape>{
           {}, {1}, {3}, {0}, {4096}, {8193}, {64, 48}, {64, 48}, {7, 9}, {48, 64}, {64, 48}})
    add(random_tensor(shape, dtype, ++seed).to(device));
  const Tensor whole = random_tensor({1000}, dtype, ++seed).to(device);
  for (const auto& [begin, end] : {std::pair(0, 3), std::pair(3, 20), std::pair(21, 700)})
    add(whole.slice(0, begin, end));
  return parameters;
}

NamedParameters clones(const NamedParameters& parameters, Device device) {
  NamedParameters copies;
  for (const NamedParameter& named : parameters)
    copies.push_back(parameter(named.name, named.parameter.data().clone().to(device)));
  return copies;
}

Tensor gradient(const NamedParameters& parameters, size_t i, int step) {
  const Variable& p = parameters[i].parameter;
  return random_tensor(p.shape(), p.dtype(), 1000 * static_cast<uint64_t>(step + 1) + i)
      .to(p.device());
}

void set_gradients(const NamedParameters& parameters, int step) {
  for (size_t i = 0; i < parameters.size(); ++i) {
    Variable handle = parameters[i].parameter;
    handle.mutable_grad() = gradient(parameters, i, step);
  }
}

void expect_same_state(const NamedParameters& a, const Optimizer& of_a, const NamedParameters& b,
                       const Optimizer& of_b, const std::string& what) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    SCOPED_TRACE(what + ", " + a[i].name);
    ASSERT_EQ(a[i].parameter.data().to_vector<double>(), b[i].parameter.data().to_vector<double>());
  }
  const StateDict state_a = of_a.state_dict(), state_b = of_b.state_dict();
  ASSERT_EQ(state_a.size(), state_b.size());
  for (size_t i = 0; i < state_a.size(); ++i) {
    SCOPED_TRACE(what + ", " + state_a[i].name);
    ASSERT_EQ(state_a[i].tensor.to_vector<double>(), state_b[i].tensor.to_vector<double>());
  }
}

double rate(int step) {
  return 0.01 / (1 + step);
}

TEST_F(CudaOptimizer, TakesTheScaleFromTheDevice) {
  for (const Kind& kind : kKinds) {
    for (const DType dtype : {DType::f32, DType::f64}) {
      const NamedParameters a = model(dtype), b = clones(a, kGpu), c = clones(a, kGpu);
      const auto of_a = kind.make(a), of_b = kind.make(b), of_c = kind.make(c);
      for (int step = 0; step < 3; ++step) {
        for (const NamedParameters& parameters : {a, b, c}) set_gradients(parameters, step);
        of_a->step(rate(step), 0.3);
        of_b->step(rate(step), scalar(0.3, DType::f64, kGpu));
        of_c->step(rate(step), scalar(0.3, DType::f64));  // brought there
      }
      expect_same_state(a, *of_a, b, *of_b, kind.name);
      expect_same_state(a, *of_a, c, *of_c, kind.name);
    }
  }
}

TEST_F(CudaOptimizer, AgreesWithTheCpu) {
  for (const Kind& kind : kKinds) {
    if (std::string(kind.name) == "muon") continue;  // products in other types
    const NamedParameters gpu = model(DType::f64), cpu = clones(gpu, kCpu);
    const auto of_gpu = kind.make(gpu), of_cpu = kind.make(cpu);
    for (int step = 0; step < 4; ++step) {
      set_gradients(gpu, step);
      set_gradients(cpu, step);
      of_gpu->step(rate(step), 0.3);
      of_cpu->step(rate(step), 0.3);
    }
    for (size_t i = 0; i < cpu.size(); ++i) {
      test::expect_close(gpu[i].parameter.data(), cpu[i].parameter.data(), 1e-12, 1e-13, kind.name);
    }
  }
}

TEST_F(CudaOptimizer, ChangesNothingWhereTheScaleIsNotFinite) {
  for (const Kind& kind : kKinds) {
    for (const DType dtype : {DType::f32, DType::f64}) {
      for (const double bad : {std::nan(""), std::numeric_limits<double>::infinity()}) {
        const NamedParameters a = model(dtype), b = clones(a, kGpu);
        const auto of_a = kind.make(a), of_b = kind.make(b);
        for (int step = 0; step < 3; ++step) {
          set_gradients(b, 50 + step);
          of_b->step(10, scalar(bad, step == 0 ? DType::f32 : DType::f64, kGpu));
          of_b->revert_step_count();
          set_gradients(a, step);
          set_gradients(b, step);
          of_a->step(rate(step));
          of_b->step(rate(step));
        }
        expect_same_state(a, *of_a, b, *of_b, kind.name);
      }
    }
  }
}

TEST_F(CudaOptimizer, StepsMoreParametersThanALaunchTakes) {
  for (const Kind& kind : kKinds) {
    const Tensor whole = random_tensor({1500 * 40}, DType::f32, 3);
    Tensor on_gpu = whole.to(kGpu), on_cpu = whole.clone();
    NamedParameters gpu, cpu;
    for (int64_t i = 0; i < 1500; ++i) {
      const std::string name = "norm" + std::to_string(i);
      gpu.push_back(parameter(name, on_gpu.slice(0, 40 * i + i % 3, 40 * i + 3 + i % 37)));
      cpu.push_back(parameter(name, on_cpu.slice(0, 40 * i + i % 3, 40 * i + 3 + i % 37)));
    }
    const auto of_gpu = kind.make(gpu), of_cpu = kind.make(cpu);
    for (int step = 0; step < 2; ++step) {
      set_gradients(gpu, step);
      set_gradients(cpu, step);
      EXPECT_NEAR(grad_norm(gpu), grad_norm(cpu), 1e-12 * grad_norm(cpu));
      of_gpu->step(rate(step));
      of_cpu->step(rate(step));
    }
    test::expect_close(on_gpu, on_cpu, 1e-5, 1e-6, kind.name);  // neighbours included
  }
}

TEST_F(CudaOptimizer, WritesCopiesWithTheirWeights) {
  for (const Kind& kind : kKinds) {
    for (const DType half : {DType::bf16, DType::f16}) {
      clear_low_precision_copies();
      NamedParameters parameters = model(DType::f32);
      // Three weights in one storage, as attention packs them; the second has no gradient.
      Tensor packed = random_tensor({50, 24}, DType::f32, 77).to(kGpu);
      parameters.push_back(parameter("q", packed.slice(0, 0, 30)));
      parameters.push_back(parameter("k", packed.slice(0, 30, 37)));
      parameters.push_back(parameter("v", packed.slice(0, 37, 50)));
      const auto optimizer = kind.make(parameters);
      std::vector<Tensor> sources;
      for (size_t i = 0; i + 3 < parameters.size(); ++i)
        sources.push_back(parameters[i].parameter.data());
      sources.push_back(packed);
      sources.push_back(parameters[6].parameter.data().transpose(0, 1));
      std::vector<Tensor> copies;
      for (const Tensor& source : sources) copies.push_back(low_precision_copy(source, half));
      for (int step = 0; step < 3; ++step) {
        set_gradients(parameters, step);
        Variable handle = parameters[parameters.size() - 2].parameter;
        handle.zero_grad();
        const bool is_skipped = step == 1;
        optimizer->step(rate(step), scalar(is_skipped ? std::nan("") : 0.5, DType::f64, kGpu));
        for (size_t i = 0; i < sources.size(); ++i) {
          SCOPED_TRACE(kind.name + std::string(", copy ") + std::to_string(i));
          // Compared before low_precision_copy() could mend it.
          ASSERT_EQ(copies[i].to_vector<float>(), sources[i].to(half).to_vector<float>());
          const uint64_t version = copies[i].version();
          const Tensor again = low_precision_copy(sources[i], half);
          EXPECT_EQ(again.raw_data(), copies[i].raw_data());
          EXPECT_EQ(again.version(), version) << "was converted again";
        }
      }
      // Changed by something else: the same address again.
      packed.fill_(0.3);
      const Tensor again = low_precision_copy(packed, half);
      EXPECT_EQ(again.raw_data(), copies[copies.size() - 2].raw_data());
      EXPECT_EQ(again.to_vector<float>(), packed.to(half).to_vector<float>());
    }
  }
}

TEST_F(CudaOptimizer, WritesCopiesOfBothTypesAndOfF64) {
  clear_low_precision_copies();
  for (const DType dtype : {DType::f32, DType::f64}) {
    const NamedParameters parameters = {parameter("w", random_tensor({33, 5}, dtype, 4).to(kGpu))};
    const Tensor& weight = parameters[0].parameter.data();
    const Tensor bf = low_precision_copy(weight, DType::bf16);
    const Tensor half = low_precision_copy(weight, DType::f16);
    const auto optimizer = kKinds[2].make(parameters);
    set_gradients(parameters, 0);
    optimizer->step(0.1);
    EXPECT_EQ(bf.to_vector<float>(), weight.to(DType::bf16).to_vector<float>());
    EXPECT_EQ(half.to_vector<float>(), weight.to(DType::f16).to_vector<float>());
  }
}

/// A step whose gradients lie at fixed addresses and whose scale is clipped on the device.
struct Training {
  NamedParameters parameters;
  std::unique_ptr<Optimizer> optimizer;
  std::vector<Tensor> gradients = {};
  std::vector<Tensor> outputs = {};  // of products with copies of the matrices

  void use_fixed_gradients() {
    for (const NamedParameter& named : parameters) {
      Variable handle = named.parameter;
      gradients.push_back(zeros(handle.shape(), handle.dtype(), handle.device()));
      handle.mutable_grad() = gradients.back();
    }
  }
  void load(int step) {
    for (size_t i = 0; i < parameters.size(); ++i) {
      gradients[i].copy_(gradient(parameters, i, step));
      if (step == 3 && gradients[i].numel() > 0)
        gradients[i].view({-1}).slice(0, 0, 1).fill_(std::nan(""));
    }
  }
  void run() {
    outputs.clear();
    for (const NamedParameter& named : parameters) {
      if (named.parameter.rank() != 2 || named.parameter.dtype() != DType::f32) continue;
      const Tensor x = ones({2, named.parameter.size(1)}, DType::bf16, kGpu);
      outputs.push_back(linear(x, named.parameter.data()));
    }
    optimizer->apply_step(clip_scale_tensor(grad_norm_tensor(parameters), 30));
  }
};

TEST_F(CudaOptimizer, ReplaysFollowTheEagerSteps) {
  for (const Kind& kind : kKinds) {
    for (const DType dtype : {DType::f32, DType::f64}) {
      clear_low_precision_copies();
      Training eager{model(dtype), nullptr}, replayed{clones(eager.parameters, kGpu), nullptr};
      Graph graph(kGpu);
      for (Training* training : {&eager, &replayed}) {
        training->optimizer = kind.make(training->parameters);
        training->use_fixed_gradients();
        training->load(0);
        training->optimizer->prepare_step(rate(0));
        training->run();
      }
      for (int step = 1; step < 7; ++step) {
        SCOPED_TRACE(std::string(kind.name) + ", step " + std::to_string(step));
        for (Training* training : {&eager, &replayed}) {
          training->load(step);
          training->optimizer->prepare_step(rate(step));
        }
        eager.run();
        if (!graph.captured()) graph.capture([&] { replayed.run(); });
        graph.replay();
        expect_same_state(eager.parameters, *eager.optimizer, replayed.parameters,
                          *replayed.optimizer, "after");
        for (size_t i = 0; i < eager.outputs.size(); ++i) {
          ASSERT_EQ(eager.outputs[i].to_vector<float>(), replayed.outputs[i].to_vector<float>())
              << "product " << i;
        }
        if (step == 3) {  // whose gradients hold NaN
          eager.optimizer->revert_step_count();
          replayed.optimizer->revert_step_count();
        }
        for (const NamedParameter& named : replayed.parameters) {
          if (named.parameter.rank() != 2 || dtype != DType::f32) continue;
          const Tensor& weight = named.parameter.data();
          EXPECT_EQ(low_precision_copy(weight, DType::bf16).to_vector<float>(),
                    weight.to(DType::bf16).to_vector<float>());
        }
        if (step == 4) {  // something else changes a weight
          for (Training* training : {&eager, &replayed})
            training->parameters[6].parameter.mutable_data().fill_(0.125);
        }
      }
    }
  }
}

TEST_F(CudaOptimizer, CopiesThatAGraphDoesNotWriteAreMadeAgain) {
  clear_low_precision_copies();
  const NamedParameters parameters = {
      parameter("w", random_tensor({16, 8}, DType::f32, 5).to(kGpu))};
  const Tensor& weight = parameters[0].parameter.data();
  const auto optimizer = kKinds[0].make(parameters);
  set_gradients(parameters, 0);
  const Tensor scale = scalar(1, DType::f64, kGpu);
  Graph graph(kGpu);
  optimizer->step(0.1, scale);
  optimizer->prepare_step(0.1);
  graph.capture([&] { optimizer->apply_step(scale); });
  graph.replay();
  const Tensor late = low_precision_copy(weight, DType::bf16);  // unknown to the graph
  optimizer->prepare_step(0.1);
  graph.replay();
  EXPECT_EQ(low_precision_copy(weight, DType::bf16).to_vector<float>(),
            weight.to(DType::bf16).to_vector<float>());
  EXPECT_EQ(low_precision_copy(weight, DType::bf16).raw_data(), late.raw_data());
}

TEST_F(CudaOptimizer, GraphsMakeCopiesThatAreNotUpToDate) {
  clear_low_precision_copies();
  Tensor weight = random_tensor({16, 8}, DType::f32, 5).to(kGpu);
  const Tensor x = random_tensor({4, 8}, DType::bf16, 6).to(kGpu);
  linear(x, weight.clone());  // chooses the product's algorithm
  const auto expected = [&] { return linear(x, weight.to(DType::bf16)).to_vector<float>(); };
  Tensor y;
  Graph graph(kGpu);
  graph.capture([&] { y = linear(x, weight); });
  const Tensor copy = low_precision_copy(weight, DType::bf16);
  EXPECT_EQ(copy.to_vector<float>(), weight.to(DType::bf16).to_vector<float>());
  graph.replay();
  EXPECT_EQ(y.to_vector<float>(), expected());
  weight.fill_(0.75);
  graph.replay();
  EXPECT_EQ(y.to_vector<float>(), expected());
  EXPECT_EQ(low_precision_copy(weight, DType::bf16).raw_data(), copy.raw_data());
}

TEST_F(CudaOptimizer, RefusesToPrepareInsideAGraph) {
  const NamedParameters parameters = {parameter("w", ones({3}, DType::f32, kGpu))};
  const auto optimizer = kKinds[2].make(parameters);
  set_gradients(parameters, 0);
  const Tensor scale = scalar(1, DType::f64, kGpu);
  optimizer->step(0.1, scale);
  Graph graph(kGpu);
  EXPECT_THROW(graph.capture([&] { optimizer->step(0.1, scale); }), AutogradError);
}

TEST_F(CudaOptimizer, ScalesLossesFromTheDevice) {
  LossScaler scaler({.initial_scale = 1024, .growth_interval = 2}, kGpu);
  const void* const address = scaler.scale_tensor().raw_data();
  EXPECT_EQ(scaler.scale_tensor().item<double>(), 1024);
  EXPECT_EQ(scaler.inverse_scale_tensor().item<double>(), 1.0 / 1024);
  scaler.update(false);
  EXPECT_EQ(scaler.scale_tensor().item<double>(), 512);
  scaler.update(true);
  scaler.update(true);
  EXPECT_EQ(scaler.scale_tensor().item<double>(), 1024);
  EXPECT_EQ(scaler.inverse_scale_tensor().item<double>(), 1.0 / 1024);
  EXPECT_EQ(scaler.scale_tensor().raw_data(), address);
}

}  // namespace
}  // namespace weft::optim
