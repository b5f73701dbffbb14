#include "weft/tensor/ops/unary.h"

#include "weft/tensor/check.h"
#include "weft/tensor/kernel.h"

#include "ops/op_list.h"
#include "ops/operand.h"
#include "ops/unary_kernels.h"

namespace weft {
namespace {

constexpr Kernel<void(UnaryFunction, const char*, const Tensor&, Tensor&, Stream)> kUnary{
    "unary", &unary_cpu, WEFT_CUDA_KERNEL(unary_cuda)};
constexpr Kernel<void(StepFunction, const char*, const Tensor&, Tensor&, Stream)> kStep{
    "step", &step_cpu, WEFT_CUDA_KERNEL(step_cuda)};
constexpr Kernel<void(const Tensor&, double, double, Tensor&, Stream)> kClamp{
    "clamp", &clamp_cpu, WEFT_CUDA_KERNEL(clamp_cuda)};
constexpr Kernel<void(UnaryFunction, const Tensor&, const Tensor&, Tensor&, Stream)> kUnaryBackward{
    "unary_backward", &unary_backward_cpu, WEFT_CUDA_KERNEL(unary_backward_cuda)};
constexpr Kernel<void(const Tensor&, double, double, const Tensor&, Tensor&, Stream)>
    kClampBackward{"clamp_backward", &clamp_backward_cpu, WEFT_CUDA_KERNEL(clamp_backward_cuda)};

Tensor unary(UnaryFunction function, const char* name, const Tensor& x) {
  const bool takes_integers = function == UnaryFunction::square || function == UnaryFunction::abs ||
                              function == UnaryFunction::relu;
  takes_integers ? check_numeric(name, x) : check_floating(name, x);
  Tensor out = empty_like(x);
  if (x.numel() > 0) kUnary(x.device())(function, name, x, out, current_stream(x.device()));
  return out;
}

Tensor step(StepFunction function, const char* name, const Tensor& x) {
  function == StepFunction::sign ? check_numeric(name, x) : check_floating(name, x);
  Tensor out = empty_like(x);
  if (x.numel() > 0) kStep(x.device())(function, name, x, out, current_stream(x.device()));
  return out;
}

void check_gradient(const char* op, const Tensor& x, const Tensor& grad_output) {
  check_floating(op, x);
  check_defined(op, grad_output);
  WEFT_CHECK(x.shape() == grad_output.shape(), ShapeError, "{}: gradient {} for {}", op,
             grad_output, x);
  WEFT_CHECK(x.dtype() == grad_output.dtype(), DTypeError, "{}: gradient {} for {}", op,
             grad_output, x);
  WEFT_CHECK(x.device() == grad_output.device(), DeviceError, "{}: gradient {} for {}", op,
             grad_output, x);
}

void check_bounds(const char* op, double lowest, double highest) {
  WEFT_CHECK(lowest <= highest, ConfigError,
             "{}: the lowest value must not exceed the highest, got {} and {}", op, lowest,
             highest);
}

}  // namespace

Tensor exp(const Tensor& x) {
  return unary(UnaryFunction::exp, "exp", x);
}
Tensor expm1(const Tensor& x) {
  return unary(UnaryFunction::expm1, "expm1", x);
}
Tensor log(const Tensor& x) {
  return unary(UnaryFunction::log, "log", x);
}
Tensor log1p(const Tensor& x) {
  return unary(UnaryFunction::log1p, "log1p", x);
}
Tensor sqrt(const Tensor& x) {
  return unary(UnaryFunction::sqrt, "sqrt", x);
}
Tensor rsqrt(const Tensor& x) {
  return unary(UnaryFunction::rsqrt, "rsqrt", x);
}
Tensor reciprocal(const Tensor& x) {
  return unary(UnaryFunction::reciprocal, "reciprocal", x);
}
Tensor square(const Tensor& x) {
  return unary(UnaryFunction::square, "square", x);
}
Tensor abs(const Tensor& x) {
  return unary(UnaryFunction::abs, "abs", x);
}
Tensor sin(const Tensor& x) {
  return unary(UnaryFunction::sin, "sin", x);
}
Tensor cos(const Tensor& x) {
  return unary(UnaryFunction::cos, "cos", x);
}
Tensor tanh(const Tensor& x) {
  return unary(UnaryFunction::tanh, "tanh", x);
}
Tensor sigmoid(const Tensor& x) {
  return unary(UnaryFunction::sigmoid, "sigmoid", x);
}
Tensor relu(const Tensor& x) {
  return unary(UnaryFunction::relu, "relu", x);
}
Tensor erf(const Tensor& x) {
  return unary(UnaryFunction::erf, "erf", x);
}
Tensor sign(const Tensor& x) {
  return step(StepFunction::sign, "sign", x);
}
Tensor floor(const Tensor& x) {
  return step(StepFunction::floor, "floor", x);
}
Tensor ceil(const Tensor& x) {
  return step(StepFunction::ceil, "ceil", x);
}
Tensor round(const Tensor& x) {
  return step(StepFunction::round, "round", x);
}

Tensor clamp(const Tensor& x, double lowest, double highest) {
  check_numeric("clamp", x);
  check_bounds("clamp", lowest, highest);
  Tensor out = empty_like(x);
  if (x.numel() > 0) kClamp(x.device())(x, lowest, highest, out, current_stream(x.device()));
  return out;
}

bool backward_uses_output(UnaryFunction function) {
  switch (function) {
    case UnaryFunction::exp:
    case UnaryFunction::expm1:
    case UnaryFunction::sqrt:
    case UnaryFunction::rsqrt:
    case UnaryFunction::reciprocal:
    case UnaryFunction::tanh:
    case UnaryFunction::sigmoid:
    case UnaryFunction::relu:
      return true;
    default:
      return false;
  }
}

Tensor unary_backward(UnaryFunction function, const Tensor& saved, const Tensor& grad_output) {
  check_gradient("unary_backward", saved, grad_output);
  Tensor grad = empty_like(saved);
  if (grad.numel() > 0)
    kUnaryBackward(grad.device())(function, saved, grad_output, grad,
                                  current_stream(grad.device()));
  return grad;
}

Tensor clamp_backward(const Tensor& x, double lowest, double highest, const Tensor& grad_output) {
  check_gradient("clamp_backward", x, grad_output);
  check_bounds("clamp_backward", lowest, highest);
  Tensor grad = empty_like(x);
  if (grad.numel() > 0)
    kClampBackward(grad.device())(x, lowest, highest, grad_output, grad,
                                  current_stream(grad.device()));
  return grad;
}

void list_unary_ops(OpTable& table) {
  table.add(kUnary, kNumericTypes, {"square", "abs", "relu"});
  table.add(kUnary, kFloatingTypes,
            {"exp", "expm1", "log", "log1p", "sqrt", "rsqrt", "reciprocal", "sin", "cos", "tanh",
             "sigmoid", "erf"});
  table.add(kStep, kNumericTypes, {"sign"});
  table.add(kStep, kFloatingTypes, {"floor", "ceil", "round"});
  table.add(kClamp, kNumericTypes);
  table.add(kUnaryBackward, kFloatingTypes);
  table.add(kClampBackward, kFloatingTypes);
}

}  // namespace weft
