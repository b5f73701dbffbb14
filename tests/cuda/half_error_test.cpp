// Fused kernels in bf16 and f16 against the same computation op by op, each result rounded: their
// errors may be at most twice as large. Attention is held to that in cudnn_attention_test.cpp,
// mechanisms in mixer_test.cpp.
#include <cmath>
#include <functional>
#include <numbers>

#include "weft/autograd/functions/activation.h"
#include "weft/autograd/functions/arithmetic.h"
#include "weft/autograd/functions/cross_entropy.h"
#include "weft/autograd/functions/gather.h"
#include "weft/autograd/functions/join.h"
#include "weft/autograd/functions/layer_norm.h"
#include "weft/autograd/functions/linear.h"
#include "weft/autograd/functions/matmul.h"
#include "weft/autograd/functions/mlp.h"
#include "weft/autograd/functions/reduce.h"
#include "weft/autograd/functions/rms_norm.h"
#include "weft/autograd/functions/rope.h"
#include "weft/autograd/functions/softmax.h"
#include "weft/autograd/functions/unary.h"
#include "weft/autograd/functions/view.h"
#include "weft/tensor/ops/random.h"

#include "devices.h"

namespace weft {
namespace {

using autograd::Variable;
using test::kGpu;
using test::random_tensor;

using Inputs = std::vector<Variable>;
using Function = std::function<Variable(const Inputs&)>;

/// A fused computation and the same op by op, of inputs with these shapes and of values in
/// [-size, size).
struct Fusion {
  const char* name;
  Function fused;
  Function op_by_op;
  std::vector<Shape> shapes;
  std::vector<double> sizes;
};

void PrintTo(const Fusion& fusion, std::ostream* out) {
  *out << fusion.name;
}

Variable norm_op_by_op(const Variable& x, const Variable& gain) {
  const Variable mean_square = autograd::mean(autograd::square(x), {-1}, /*keepdim=*/true);
  return autograd::mul(autograd::mul(x, autograd::rsqrt(autograd::add(mean_square, 1e-6))), gain);
}

Variable layer_norm_op_by_op(const Variable& x, const Variable& gain, const Variable& bias) {
  const Variable centred = autograd::sub(x, autograd::mean(x, {-1}, /*keepdim=*/true));
  return autograd::add(norm_op_by_op(centred, gain), bias);
}

/// x Phi(x), by the error function.
Variable gelu_op_by_op(const Variable& x) {
  const Variable phi = autograd::add(autograd::erf(autograd::mul(x, std::sqrt(0.5))), 1.0);
  return autograd::mul(autograd::mul(x, phi), 0.5);
}

/// x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))).
Variable gelu_tanh_op_by_op(const Variable& x) {
  const Variable cubic = autograd::mul(autograd::mul(autograd::square(x), x), 0.044715);
  const Variable inner = autograd::mul(autograd::add(x, cubic), std::sqrt(2 / std::numbers::pi));
  return autograd::mul(autograd::mul(x, autograd::add(autograd::tanh(inner), 1.0)), 0.5);
}

Variable softmax_op_by_op(const Variable& x) {
  const Variable e = autograd::exp(x);
  return autograd::div(e, autograd::sum(e, {-1}, /*keepdim=*/true));
}

Variable swiglu_op_by_op(const Variable& gate, const Variable& up) {
  return autograd::mul(autograd::mul(gate, autograd::sigmoid(gate)), up);
}

Variable halves_swiglu(const Variable& packed) {
  const int64_t features = packed.data().size(-1) / 2;
  return swiglu_op_by_op(autograd::slice(packed, -1, 0, features),
                         autograd::slice(packed, -1, features, 2 * features));
}

/// Turns [B, T, H, D] at positions from 3 on.
Variable rope_op_by_op(const Variable& x) {
  const int64_t tokens = x.data().size(1), half = x.data().size(3) / 2;
  std::vector<double> cosines, sines;
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(t + 3) *
                           std::pow(10000, -static_cast<double>(i) / static_cast<double>(half));
      cosines.push_back(std::cos(angle));
      sines.push_back(std::sin(angle));
    }
  }
  const Variable c(from_vector(cosines, {tokens, 1, half}).to(x.data().dtype()));
  const Variable s(from_vector(sines, {tokens, 1, half}).to(x.data().dtype()));
  const Variable a = autograd::slice(x, 3, 0, half), b = autograd::slice(x, 3, half, 2 * half);
  return autograd::cat({autograd::sub(autograd::mul(a, c), autograd::mul(b, s)),
                        autograd::add(autograd::mul(b, c), autograd::mul(a, s))},
                       3);
}

/// Where each of `rows` rows of logits should be highest.
Tensor targets_of(int64_t rows, int64_t classes) {
  Generator generator(9);
  return randint(0, classes, {rows}, generator, DType::i64);
}

Variable token_losses_op_by_op(const Variable& logits) {
  const Tensor targets = targets_of(logits.data().size(0), logits.data().size(1));
  return autograd::neg(autograd::squeeze(
      autograd::gather(autograd::log_softmax(logits), 1, targets.view({-1, 1})), 1));
}

constexpr int64_t kRows = 70, kWidth = 96, kClasses = 501;

std::vector<Fusion> all_fusions() {
  const auto rows_targets = [](const Variable& like) {
    return targets_of(kRows, kClasses).to(like.data().device());
  };
  return {
      {"RmsNorm",
       [](const Inputs& x) { return autograd::rms_norm(x[0], x[1]); },
       [](const Inputs& x) { return norm_op_by_op(x[0], x[1]); },
       {{kRows, kWidth}, {kWidth}},
       {2, 1.5}},
      {"RmsNormOfASum",
       [](const Inputs& x) {
         const auto both = autograd::rms_norm_residual(x[0], x[1], x[2]);
         return autograd::add(both.y, both.sum);
       },
       [](const Inputs& x) {
         const Variable sum = autograd::add(x[0], x[1]);
         return autograd::add(norm_op_by_op(sum, x[2]), sum);
       },
       {{kRows, kWidth}, {kRows, kWidth}, {kWidth}},
       {2, 2, 1.5}},
      {"LayerNorm",
       [](const Inputs& x) { return autograd::layer_norm(x[0], x[1], x[2], 1e-6); },
       [](const Inputs& x) { return layer_norm_op_by_op(x[0], x[1], x[2]); },
       {{kRows, kWidth}, {kWidth}, {kWidth}},
       {2, 1.5, 1}},
      {"Gelu",
       [](const Inputs& x) { return autograd::gelu(x[0]); },
       [](const Inputs& x) { return gelu_op_by_op(x[0]); },
       {{kRows, kWidth}},
       {3}},
      {"Softmax",
       [](const Inputs& x) { return autograd::softmax(x[0]); },
       [](const Inputs& x) { return softmax_op_by_op(x[0]); },
       {{kRows, kWidth}},
       {4}},
      {"Swiglu",
       [](const Inputs& x) { return autograd::swiglu(x[0], x[1]); },
       [](const Inputs& x) { return swiglu_op_by_op(x[0], x[1]); },
       {{kRows, kWidth}, {kRows, kWidth}},
       {4, 2}},
      {"SwigluPacked",
       [](const Inputs& x) { return autograd::swiglu_packed(x[0]); },
       [](const Inputs& x) { return halves_swiglu(x[0]); },
       {{kRows, 2 * kWidth}},
       {4}},
      {"SwigluLinear",
       [](const Inputs& x) { return autograd::swiglu_linear(x[0], x[1]); },
       [](const Inputs& x) { return autograd::linear(halves_swiglu(x[0]), x[1]); },
       {{kRows, 2 * kWidth}, {40, kWidth}},
       {4, 1}},
      {"MlpOfGeluByTanh",
       [](const Inputs& x) {
         return autograd::mlp(x[0], {x[1], x[2], x[3], x[4]}, HiddenActivation::gelu_tanh);
       },
       [](const Inputs& x) {
         return autograd::linear(gelu_tanh_op_by_op(autograd::linear(x[0], x[1], x[2])), x[3],
                                 x[4]);
       },
       {{kRows, kWidth}, {128, kWidth}, {128}, {40, 128}, {40}},
       {1, 0.25, 1, 0.5, 1}},
      {"MlpOfRelu",
       [](const Inputs& x) {
         return autograd::mlp(x[0], {x[1], x[2], x[3], x[4]}, HiddenActivation::relu);
       },
       [](const Inputs& x) {
         return autograd::linear(autograd::relu(autograd::linear(x[0], x[1], x[2])), x[3], x[4]);
       },
       {{kRows, kWidth}, {128, kWidth}, {128}, {40, 128}, {40}},
       {1, 0.25, 1, 0.5, 1}},
      {"Rope",
       [](const Inputs& x) { return autograd::rope(x[0], {.offset = 3}); },
       [](const Inputs& x) { return rope_op_by_op(x[0]); },
       {{2, 35, 3, 64}},
       {2}},
      {"TokenLosses",
       [=](const Inputs& x) { return autograd::cross_entropy_per_token(x[0], rows_targets(x[0])); },
       [](const Inputs& x) { return token_losses_op_by_op(x[0]); },
       {{kRows, kClasses}},
       {6}},
      {"LossOfAHead",
       [=](const Inputs& x) {
         return autograd::linear_cross_entropy(x[0], x[1], rows_targets(x[0]));
       },
       [](const Inputs& x) {
         return autograd::mean(token_losses_op_by_op(autograd::linear(x[0], x[1])));
       },
       {{kRows, kWidth}, {kClasses, kWidth}},
       {2, 0.5}},
      {"LinearOfManyRows",
       [](const Inputs& x) { return autograd::linear(x[0], x[1]); },
       [](const Inputs& x) { return autograd::linear(x[0], x[1]); },
       {{kRows, kWidth}, {40, kWidth}},
       {2, 1}},
      {"LinearOfFewRows",
       [](const Inputs& x) { return autograd::linear(x[0], x[1]); },
       [](const Inputs& x) { return autograd::linear(x[0], x[1]); },
       {{3, 1024}, {77, 1024}},
       {2, 1}},
  };
}

/// The value of a function and the gradients of its inputs, in f64 on the CPU.
std::vector<Tensor> results_of(const Function& function, const std::vector<Tensor>& inputs,
                               const Tensor& dy) {
  Inputs variables;
  for (const Tensor& input : inputs) variables.emplace_back(input, /*requires_grad=*/true);
  const Variable y = function(variables);
  y.backward(dy.to(y.data().dtype()).to(y.data().device()));
  std::vector<Tensor> results{y.data()};
  for (const Variable& variable : variables) results.push_back(variable.grad());
  for (Tensor& result : results) result = result.to(kCpu).to(DType::f64);
  return results;
}

double distance(const Tensor& a, const Tensor& b) {
  const std::vector<double> x = a.to_vector<double>(), y = b.to_vector<double>();
  double sum = 0;
  for (size_t i = 0; i < x.size(); ++i) sum += (x[i] - y[i]) * (x[i] - y[i]);
  return std::sqrt(sum / static_cast<double>(x.size()));
}

class CudaHalfErrors : public test::CudaTest, public ::testing::WithParamInterface<Fusion> {};
INSTANTIATE_TEST_SUITE_P(All, CudaHalfErrors, ::testing::ValuesIn(all_fusions()),
                         [](const auto& info) { return std::string(info.param.name); });

TEST_P(CudaHalfErrors, AreAtMostTwiceThoseOfTheNaiveComputation) {
  const Fusion& fusion = GetParam();
  for (const DType dtype : {DType::bf16, DType::f16}) {
    std::vector<Tensor> inputs, exact_inputs, gpu_inputs;
    for (size_t i = 0; i < fusion.shapes.size(); ++i) {
      const double size = fusion.sizes[i];
      inputs.push_back(random_tensor(fusion.shapes[i], dtype, 10 + i, -size, size));
      exact_inputs.push_back(inputs.back().to(DType::f64));
      gpu_inputs.push_back(inputs.back().to(kGpu));
    }
    Inputs probe;
    for (const Tensor& input : exact_inputs) probe.emplace_back(input);
    const Shape shape = fusion.op_by_op(probe).data().shape();
    const Tensor dy = shape.rank() == 0 ? ones({}, dtype) : random_tensor(shape, dtype, 5);
    const std::vector<Tensor> exact = results_of(fusion.op_by_op, exact_inputs, dy);
    const std::vector<Tensor> naive = results_of(fusion.op_by_op, inputs, dy);
    const std::vector<Tensor> fused = results_of(fusion.fused, gpu_inputs, dy);
    for (size_t i = 0; i < exact.size(); ++i) {
      if (exact[i].numel() == 1) continue;  // one number may be near by chance
      EXPECT_LE(distance(fused[i], exact[i]), 2 * distance(naive[i], exact[i]) + 1e-7)
          << (i == 0 ? "the value" : "the gradient of input " + std::to_string(i - 1)) << " in "
          << to_string(dtype);
    }
  }
}

}  // namespace
}  // namespace weft
