// Products that end in an activation or its derivative, against f64 on the CPU, and the MLPs that
// stand on them.
#include "weft/tensor/ops/linear_activation.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <iostream>
#include <vector>

#include "weft/autograd/functions/arithmetic.h"
#include "weft/autograd/functions/mlp.h"
#include "weft/autograd/functions/reduce.h"
#include "weft/autograd/functions/view.h"
#include "weft/optim/adamw.h"
#include "weft/optim/training_step.h"
#include "weft/tensor/determinism.h"
#include "weft/tensor/graph.h"
#include "weft/tensor/ops/linear.h"

#include "devices.h"

namespace weft {
namespace {

using autograd::MlpParameters;
using autograd::Variable;
using test::expect_close;
using test::kGpu;
using test::mirrored;
using test::random_tensor;
using test::rounding_error;

class CudaLinearActivation : public test::CudaTest {};

constexpr DType kFloating[] = {DType::f64, DType::f32, DType::bf16, DType::f16};
constexpr HiddenActivation kActivations[] = {HiddenActivation::gelu, HiddenActivation::gelu_tanh,
                                             HiddenActivation::relu};

Tensor exact(const Tensor& x) {
  return x.to(DType::f64);
}

/// Values of a few units. Those for relu are whole numbers.
Tensor values(HiddenActivation activation, const Shape& shape, DType dtype, uint64_t seed,
              double size) {
  if (activation == HiddenActivation::relu)
    return random_tensor(shape, DType::i32, seed, -3, 4).to(dtype);
  return random_tensor(shape, dtype, seed, -size, size);
}

/// Operands of a hidden layer of M rows, K inputs and N features and of a product after it with E
/// outputs. Sums before relu are whole numbers and a half, whatever their order, so that none is at
/// its edge.
struct Operands {
  HiddenActivation activation;
  Tensor x, up, bias, dy, down;

  Operands(HiddenActivation activation, int64_t m, int64_t n, int64_t k, int64_t e, DType dtype,
           bool has_bias = true)
      : activation(activation),
        x(values(activation, {m, k}, dtype, 1, 1)),
        up(values(activation, {n, k}, dtype, 2, 0.5)),
        bias(has_bias ? values(activation, {n}, dtype, 3, 1) : Tensor()),
        dy(random_tensor({m, e}, dtype, 4, -1, 1)),
        down(random_tensor({e, n}, dtype, 5, -1, 1)) {
    if (activation == HiddenActivation::relu) {
      x.select(1, k - 1).fill_(0.5);
      up.select(1, k - 1).fill_(1);
    }
  }

  Operands with_parameters_of(DType dtype) const {
    Operands other = *this;
    other.up = up.to(dtype);
    if (bias.defined()) other.bias = bias.to(dtype);
    other.down = down.to(dtype);
    return other;
  }
  Operands to(Device device) const {
    Operands moved = *this;
    for (Tensor* tensor : {&moved.x, &moved.up, &moved.bias, &moved.dy, &moved.down})
      if (tensor->defined()) *tensor = mirrored(*tensor, device);
    return moved;
  }
  Operands exact_ones() const {
    Operands other = *this;
    for (Tensor* tensor : {&other.x, &other.up, &other.bias, &other.dy, &other.down})
      if (tensor->defined()) *tensor = exact(*tensor);
    return other;
  }
};

double largest_of(const Tensor& x) {
  double largest = 0;
  for (const double value : x.to_vector<double>()) largest = std::max(largest, std::fabs(value));
  return largest;
}

/// What an activation's argument x, a sum of terms up to 2, may be wrong by, relative to |x| + 1:
/// it is rounded to the type of the result once or, where the library adds the bias to a rounded
/// product, twice. As |x f'(x)| is at most |f(x)| + 1 and |x f''(x)| at most 1, that is also what
/// it brings to a value, relative to |f(x)| + 2, and to a slope, relative to 2.
double argument_error(DType dtype) {
  return dtype == DType::f64 ? 1e-12 : dtype == DType::f32 ? 1e-5 : 2 * rounding_error(dtype);
}

/// What the GPU's tanh, which the library takes for half types, errs by.
double tanh_error(HiddenActivation activation, DType dtype) {
  const bool is_half = dtype == DType::bf16 || dtype == DType::f16;
  return is_half && activation == HiddenActivation::gelu_tanh ? 0x1p-11 : 0;
}

Tensor hidden_of(const Operands& o) {
  return linear_activation(o.x, o.up, o.bias, o.activation, false).y;
}

HiddenGrads gradients_of(const Operands& o, bool want_dbias) {
  return linear_activation_backward(o.dy, o.down,
                                    linear_activation(o.x, o.up, o.bias, o.activation, true),
                                    o.activation, want_dbias);
}

/// Holds forward and backward on the GPU against f64.
void expect_right(const Operands& on_cpu, const Operands& reference) {
  const HiddenActivation activation = on_cpu.activation;
  const DType dtype = on_cpu.x.dtype();
  const Operands on_gpu = on_cpu.to(kGpu);
  const double unit = rounding_error(dtype);
  const double argument = argument_error(dtype);
  const double tanh = tanh_error(activation, dtype);

  const Tensor y = hidden_of(reference);
  const double relative = 2 * unit + argument;
  const double absolute =
      2 * argument + tanh * largest_of(linear(reference.x, reference.up, reference.bias));
  const HiddenFeatures hidden =
      linear_activation(on_gpu.x, on_gpu.up, on_gpu.bias, activation, true);
  ASSERT_EQ(hidden.y.dtype(), dtype);
  expect_close(exact(hidden.y), y, relative, absolute, "with what backward needs");
  expect_close(exact(hidden_of(on_gpu)), y, relative, absolute, "alone");

  const HiddenGrads expected = gradients_of(reference, true);
  const double largest = largest_of(linear_backward_input(reference.dy, reference.down));
  const double slope = activation == HiddenActivation::relu ? 0 : 2 * argument + 4 * tanh;
  const double sums = dtype == DType::f64 ? 1e-12 : 1e-5;
  for (const bool want_dbias : {false, true}) {
    const HiddenGrads grads =
        linear_activation_backward(on_gpu.dy, on_gpu.down, hidden, activation, want_dbias);
    ASSERT_EQ(grads.dbias.defined(), want_dbias);
    expect_close(exact(grads.dsums), expected.dsums, 3 * unit, largest * (slope + sums), "dsums");
    if (!want_dbias) continue;
    // Of what was rounded one by one, or not at all; sums of the rows' terms are kept in f32 (f64).
    const auto rows = static_cast<double>(on_cpu.x.size(0));
    const double of_sums = rounding_error(dtype == DType::f64 ? DType::f64 : DType::f32) * rows;
    const Tensor column_sums = linear_backward_bias(exact(grads.dsums.to(kCpu)));
    ASSERT_EQ(grads.dbias.dtype(), dtype);
    expect_close(exact(grads.dbias), column_sums, 2 * unit,
                 (4 * unit * std::sqrt(rows) + of_sums) * largest_of(grads.dsums), "dbias");
  }
}

struct Sizes {
  int64_t m, n, k, e;
};

TEST_F(CudaLinearActivation, EqualsTheReferenceForwardAndBackward) {
  // Below: one row, few rows, features and inputs that the library's vectors do not divide.
  for (const auto& [m, n, k, e] :
       {Sizes{1, 64, 32, 16}, Sizes{1, 7, 5, 3}, Sizes{5, 40, 24, 8}, Sizes{33, 1, 9, 4},
        Sizes{63, 31, 17, 15}, Sizes{130, 129, 31, 65}, Sizes{64, 136, 40, 24},
        Sizes{200, 256, 128, 64}, Sizes{17, 72, 8, 1}}) {
    for (const HiddenActivation activation : kActivations) {
      for (const DType dtype : kFloating) {
        for (const bool has_bias : {true, false}) {
          SCOPED_TRACE(testing::Message() << m << " rows, " << k << " to " << n << " to " << e
                                          << " " << to_string(activation) << " " << to_string(dtype)
                                          << (has_bias ? " with bias" : ""));
          const Operands operands(activation, m, n, k, e, dtype, has_bias);
          expect_right(operands, operands.exact_ones());
          if (HasFatalFailure()) return;
          if (dtype == DType::f64 || dtype == DType::f32) continue;
          // Masters in f32, of values that the copies hold.
          expect_right(operands.with_parameters_of(DType::f32), operands.exact_ones());
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

TEST_F(CudaLinearActivation, ReadsEveryLayout) {
  for (const HiddenActivation activation : kActivations) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const Operands dense(activation, 40, 48, 24, 16, dtype);
      const Operands reference = dense.exact_ones();
      for (const Tensor& x : test::in_all_layouts(dense.x)) {
        for (const Tensor& dy : test::in_all_layouts(dense.dy)) {
          Operands operands = dense;
          operands.x = x;
          operands.dy = dy;
          expect_right(operands, reference);
          if (HasFatalFailure()) return;
        }
      }
      for (const Tensor& up : test::in_all_layouts(dense.up)) {
        for (const Tensor& down : test::in_all_layouts(dense.down)) {
          Operands operands = dense;
          operands.up = up;
          operands.down = down;
          expect_right(operands, reference);
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

TEST_F(CudaLinearActivation, TakesABiasAtAnyAddress) {
  for (const HiddenActivation activation : kActivations) {
    for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
      Operands operands(activation, 33, 64, 24, 16, dtype);
      const Tensor longer = values(activation, {67}, dtype, 6, 1);
      for (const int64_t offset : {0, 1, 2, 3}) {
        operands.bias = longer.slice(0, offset, offset + 64);
        expect_right(operands, operands.exact_ones());
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_F(CudaLinearActivation, KeepsLeadingAxesAndEmptyRows) {
  for (const HiddenActivation activation : kActivations) {
    const Operands operands(activation, 24, 32, 16, 8, DType::bf16);
    const Operands on_gpu = operands.to(kGpu);
    const HiddenFeatures flat =
        linear_activation(on_gpu.x, on_gpu.up, on_gpu.bias, activation, true);
    const HiddenFeatures hidden =
        linear_activation(on_gpu.x.view({2, 12, 16}), on_gpu.up, on_gpu.bias, activation, true);
    EXPECT_EQ(hidden.y.shape(), (Shape{2, 12, 32}));
    EXPECT_EQ(hidden.y.to_vector<float>(), flat.y.to_vector<float>());
    const HiddenGrads grads = linear_activation_backward(on_gpu.dy.view({2, 12, 8}), on_gpu.down,
                                                         hidden, activation, true);
    EXPECT_EQ(grads.dsums.shape(), (Shape{2, 12, 32}));
    EXPECT_EQ(grads.dsums.to_vector<float>(),
              linear_activation_backward(on_gpu.dy, on_gpu.down, flat, activation, true)
                  .dsums.to_vector<float>());

    const HiddenFeatures none = linear_activation(empty({0, 16}, DType::bf16, kGpu), on_gpu.up,
                                                  on_gpu.bias, activation, true);
    EXPECT_EQ(none.y.shape(), (Shape{0, 32}));
    const HiddenGrads no_grads = linear_activation_backward(empty({0, 8}, DType::bf16, kGpu),
                                                            on_gpu.down, none, activation, true);
    EXPECT_EQ(no_grads.dsums.shape(), (Shape{0, 32}));
    EXPECT_EQ(no_grads.dbias.to_vector<float>(), std::vector<float>(32, 0.0f));
  }
}

/// Large enough that algorithms, and the parts against the whole, are timed.
TEST_F(CudaLinearActivation, LargeProductsAreRightWhicheverWayIsFaster) {
  for (const HiddenActivation activation : {HiddenActivation::gelu_tanh, HiddenActivation::relu}) {
    for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
      SCOPED_TRACE(testing::Message() << to_string(activation) << " " << to_string(dtype));
      const Operands operands(activation, 2048, 1024, 512, 512, dtype);
      for (int run = 0; run < 2; ++run) {  // the first times them
        expect_right(operands, operands.exact_ones());
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_F(CudaLinearActivation, RepeatsToTheBit) {
  for (const HiddenActivation activation : kActivations) {
    for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
      const Operands operands = Operands(activation, 600, 512, 64, 256, dtype).to(kGpu);
      const Tensor y = hidden_of(operands).to(kCpu);
      const HiddenGrads first = gradients_of(operands, true);
      for (int i = 0; i < 5; ++i) {
        test::expect_same(hidden_of(operands), y, "y");
        const HiddenGrads again = gradients_of(operands, true);
        test::expect_same(again.dsums, first.dsums.to(kCpu), "dsums");
        test::expect_same(again.dbias, first.dbias.to(kCpu), "dbias");
      }
    }
  }
}

/// Kernels (and copies) that the body puts on the stream.
int64_t count_work(const std::function<void()>& body) {
  body();  // what is made once
  Graph graph(kGpu);
  graph.capture(body);
  return graph.nodes();
}

TEST_F(CudaLinearActivation, ActivationsTakeNoPassOfTheirOwn) {
  for (const HiddenActivation activation : {HiddenActivation::gelu_tanh, HiddenActivation::relu}) {
    for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
      // Small enough that nothing is timed: the library's first guess is taken.
      const Operands o =
          Operands(activation, 512, 768, 256, 256, dtype).with_parameters_of(DType::f32).to(kGpu);
      const auto forward = [&](HiddenActivation form, bool for_backward) {
        return count_work([&] { linear_activation(o.x, o.up, o.bias, form, for_backward); });
      };
      const auto backward = [&](HiddenActivation form, bool want_dbias) {
        const HiddenFeatures hidden = linear_activation(o.x, o.up, o.bias, form, true);
        return count_work(
            [&] { linear_activation_backward(o.dy, o.down, hidden, form, want_dbias); });
      };
      // The exact one never rides on a product.
      const auto apart = HiddenActivation::gelu;
      const int64_t fused[] = {forward(activation, false), forward(activation, true),
                               backward(activation, false), backward(activation, true)};
      const int64_t in_parts[] = {forward(apart, false), forward(apart, true),
                                  backward(apart, false), backward(apart, true)};
      const char* const names[] = {"forward", "forward for backward", "backward",
                                   "backward with the bias's gradient"};
      for (int i = 0; i < 4; ++i) {
        std::cout << to_string(activation) << " " << to_string(dtype) << " " << names[i] << ": "
                  << fused[i] << " pieces of work, " << in_parts[i] << " in parts\n";
        EXPECT_LE(fused[i], in_parts[i]) << to_string(activation) << to_string(dtype) << names[i];
        // Of others the library may lack the epilogue.
        if (dtype == DType::bf16 && activation == HiddenActivation::gelu_tanh) {
          EXPECT_LT(fused[i], in_parts[i]) << names[i];
        }
      }
    }
  }
}

MlpParameters move_to(const MlpParameters& parameters, Device device) {
  const auto moved = [&](const Variable& parameter) {
    return parameter.defined() ? Variable(parameter.data().to(device), true) : Variable();
  };
  return {moved(parameters.up), moved(parameters.up_bias), moved(parameters.down),
          moved(parameters.down_bias)};
}

MlpParameters make_mlp(int64_t features, int64_t hidden, DType dtype, bool has_biases) {
  const auto parameter = [&](const Shape& shape, uint64_t seed, double size) {
    return Variable(random_tensor(shape, DType::bf16, seed, -size, size).to(dtype), true);
  };
  return {
      parameter({hidden, features}, 2, 0.5), has_biases ? parameter({hidden}, 3, 1) : Variable(),
      parameter({features, hidden}, 4, 0.5), has_biases ? parameter({features}, 5, 1) : Variable()};
}

TEST_F(CudaLinearActivation, MlpsHaveTheGradientsOfTheCpu) {
  for (const HiddenActivation activation : {HiddenActivation::gelu, HiddenActivation::gelu_tanh}) {
    for (const DType dtype : kFloating) {
      for (const DType of_parameters : {dtype, dtype == DType::f64 ? DType::f64 : DType::f32}) {
        for (const bool has_biases : {true, false}) {
          for (const Shape& shape : {Shape{3, 21, 40}, Shape{1, 40}, Shape{50, 37}}) {
            SCOPED_TRACE(testing::Message()
                         << to_string(activation) << " " << to_string(dtype) << " "
                         << to_string(of_parameters) << " " << to_string(shape) << has_biases);
            const Tensor x = random_tensor(shape, dtype, 1, -1, 1);
            const Tensor dy = random_tensor(shape, dtype, 6, -1, 1);
            const MlpParameters model =
                make_mlp(shape[shape.rank() - 1], 72, of_parameters, has_biases);
            const auto results = [&](Device device, DType computed) {
              const MlpParameters p =
                  computed == DType::f64
                      ? move_to({Variable(exact(model.up.data())),
                                 has_biases ? Variable(exact(model.up_bias.data())) : Variable(),
                                 Variable(exact(model.down.data())),
                                 has_biases ? Variable(exact(model.down_bias.data())) : Variable()},
                                device)
                      : move_to(model, device);
              const Variable in(x.to(computed).to(device), true);
              const Variable y = autograd::mlp(in, p, activation);
              y.backward(dy.to(computed).to(device));
              std::vector<Tensor> all{y.data(), in.grad(), p.up.grad(), p.down.grad()};
              if (has_biases) all.insert(all.end(), {p.up_bias.grad(), p.down_bias.grad()});
              return all;
            };
            const std::vector<Tensor> expected = results(kCpu, DType::f64);
            const std::vector<Tensor> actual = results(kGpu, dtype);
            const double unit = dtype == DType::f32 ? 2e-6 : rounding_error(dtype);
            for (size_t i = 0; i < expected.size(); ++i) {
              EXPECT_EQ(actual[i].dtype(), i < 2 ? dtype : of_parameters) << i;
              // Values inside, up to 5, round; sums of as many as 72 of them spread that.
              const double absolute =
                  4 * (unit + tanh_error(activation, dtype)) * largest_of(expected[i]) +
                  (dtype == DType::f64 ? 1e-12 : 1e-5);
              expect_close(exact(actual[i]), expected[i], 4 * unit, absolute,
                           ("result " + std::to_string(i)).c_str());
              if (HasFatalFailure()) return;
            }
          }
        }
      }
    }
  }
}

using optim::NamedParameters;

/// An MLP of one hidden layer.
NamedParameters make_model(Device device, int64_t hidden) {
  const auto parameter = [&](const char* name, const Shape& shape, uint64_t seed) {
    return autograd::NamedParameter{
        name, Variable(random_tensor(shape, DType::f32, seed, -0.3, 0.3).to(device), true)};
  };
  return {parameter("up", {hidden, 32}, 1), parameter("up_bias", {hidden}, 2),
          parameter("down", {16, hidden}, 3), parameter("down_bias", {16}, 4)};
}

optim::TrainingStep::Loss loss_of(const NamedParameters& model, HiddenActivation activation,
                                  DType dtype) {
  return [=](const Tensor& inputs, const Tensor& targets, const Tensor& scale) {
    const Variable y = autograd::mlp(
        Variable(inputs.to(dtype)),
        {model[0].parameter, model[1].parameter, model[2].parameter, model[3].parameter},
        activation);
    const Variable error = autograd::sub(autograd::to(y, DType::f32), Variable(targets));
    return autograd::mul(autograd::sum(autograd::mul(error, error)), Variable(scale));
  };
}

optim::MicroBatch batch_of(uint64_t seed) {
  return {random_tensor({40, 32}, DType::f32, seed, -1, 1),
          random_tensor({40, 16}, DType::f32, seed + 1, -1, 1), 40};
}

TEST_F(CudaLinearActivation, RecordedTrainingGivesTheBitsOfStepsComputedAnew) {
  for (const HiddenActivation activation : kActivations) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      for (const int64_t hidden : {64, 51}) {
        SCOPED_TRACE(testing::Message()
                     << to_string(activation) << " " << to_string(dtype) << " " << hidden);
        const NamedParameters replayed = make_model(kGpu, hidden), eager = make_model(kGpu, hidden);
        optim::AdamW optimizer(optim::default_groups(replayed));
        optim::AdamW optimizer_eager(optim::default_groups(eager));
        optim::TrainingStep step(optimizer, kGpu, loss_of(replayed, activation, dtype),
                                 {.grad_clip = 1});
        optim::TrainingStep step_eager(optimizer_eager, kGpu, loss_of(eager, activation, dtype),
                                       {.grad_clip = 1, .use_graph = false});
        double first = 0, last = 0;
        for (int i = 0; i < 12; ++i) {
          const std::vector<optim::MicroBatch> batches = {batch_of(static_cast<uint64_t>(i % 2))};
          const auto a = step.run(0.01, batches);
          const auto b = step_eager.run(0.01, batches);
          EXPECT_EQ(a.loss, b.loss) << i;
          EXPECT_EQ(a.grad_norm, b.grad_norm) << i;
          EXPECT_EQ(step.is_replayed(), i > 0) << step.graph_refusal();
          if (i == 0) first = a.loss;
          if (i == 10) last = a.loss;  // of the same batch
        }
        EXPECT_LT(last, first);
        for (size_t p = 0; p < replayed.size(); ++p) {
          EXPECT_EQ(replayed[p].parameter.data().to_vector<float>(),
                    eager[p].parameter.data().to_vector<float>())
              << replayed[p].name;
        }
      }
    }
  }
}

TEST_F(CudaLinearActivation, TrainingFollowsTheCpu) {
  for (const HiddenActivation activation : {HiddenActivation::gelu, HiddenActivation::gelu_tanh}) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const NamedParameters gpu = make_model(kGpu, 64), cpu = make_model(kCpu, 64);
      optim::AdamW optimizer_gpu(optim::default_groups(gpu));
      optim::AdamW optimizer_cpu(optim::default_groups(cpu));
      optim::TrainingStep step_gpu(optimizer_gpu, kGpu, loss_of(gpu, activation, dtype));
      optim::TrainingStep step_cpu(optimizer_cpu, kCpu, loss_of(cpu, activation, dtype));
      const double close = dtype == DType::f32 ? 1e-4 : 2e-2;
      for (int i = 0; i < 15; ++i) {
        const std::vector<optim::MicroBatch> batches = {batch_of(static_cast<uint64_t>(i))};
        const auto a = step_gpu.run(0.003, batches);
        const auto b = step_cpu.run(0.003, batches);
        EXPECT_NEAR(a.loss, b.loss, close * b.loss) << to_string(dtype) << i;
        EXPECT_NEAR(a.grad_norm, b.grad_norm, close * b.grad_norm) << to_string(dtype) << i;
      }
    }
  }
}

}  // namespace
}  // namespace weft
