#include "weft/tensor/ops/arithmetic.h"

#include "weft/tensor/check.h"
#include "weft/tensor/kernel.h"
#include "weft/tensor/ops/unary.h"

#include "ops/arithmetic_kernels.h"
#include "ops/op_list.h"
#include "ops/operand.h"

namespace weft {
namespace {

constexpr Kernel<void(BinaryOp, const char*, const Operand&, const Operand&, Tensor&, Stream)>
    kBinary{"arithmetic", &binary_cpu, WEFT_CUDA_KERNEL(binary_cuda)};
constexpr Kernel<void(Tensor&, const Tensor&, double, Stream)> kAddScaled{
    "add_", &add_scaled_cpu, WEFT_CUDA_KERNEL(add_scaled_cuda)};

Tensor binary(BinaryOp op, const char* name, const OperandPair& pair) {
  check_numeric(name, pair.a.tensor.defined() ? pair.a.tensor : pair.b.tensor);
  Tensor out = empty(pair.shape, pair.dtype, pair.device);
  if (out.numel() > 0)
    kBinary(pair.device)(op, name, pair.a, pair.b, out, current_stream(pair.device));
  return out;
}

void check_in_place(const char* name, const Tensor& a, const Tensor& b) {
  check_numeric(name, a);
  check_numeric(name, b);
  WEFT_CHECK(a.dtype() == b.dtype() || (is_floating(a.dtype()) && is_floating(b.dtype())),
             DTypeError, "{}: {} cannot change {}: types must be equal or both floating", name, b,
             a);
  WEFT_CHECK(a.device() == b.device(), DeviceError,
             "{}: operands must be on the same device, got {} and {}", name, a, b);
  check_writable(name, a);
  WEFT_CHECK(a.shape() == b.shape() || broadcast_shapes(name, a.shape(), b.shape()) == a.shape(),
             ShapeError, "{}: {} does not broadcast to {}", name, b, a);
}

Tensor& binary_in_place(BinaryOp op, const char* name, Tensor& a, const Tensor& b) {
  check_in_place(name, a, b);
  if (a.numel() > 0) {
    const Tensor other = apart_from(b.expand(a.shape()), a);
    kBinary(a.device())(op, name, {a}, {other}, a, current_stream(a.device()));
  }
  a.storage()->bump_version();
  return a;
}

Tensor& binary_in_place(BinaryOp op, const char* name, Tensor& a, double b) {
  check_numeric(name, a);
  check_writable(name, a);
  if (a.numel() > 0) kBinary(a.device())(op, name, {a}, {{}, b}, a, current_stream(a.device()));
  a.storage()->bump_version();
  return a;
}

}  // namespace

Tensor add(const Tensor& a, const Tensor& b) {
  return binary(BinaryOp::add, "add", pair_operands("add", a, b));
}
Tensor add(const Tensor& a, double b) {
  return binary(BinaryOp::add, "add", pair_operands("add", a, b));
}
Tensor add(double a, const Tensor& b) {
  return binary(BinaryOp::add, "add", pair_operands("add", a, b));
}

Tensor sub(const Tensor& a, const Tensor& b) {
  return binary(BinaryOp::sub, "sub", pair_operands("sub", a, b));
}
Tensor sub(const Tensor& a, double b) {
  return binary(BinaryOp::sub, "sub", pair_operands("sub", a, b));
}
Tensor sub(double a, const Tensor& b) {
  return binary(BinaryOp::sub, "sub", pair_operands("sub", a, b));
}

Tensor mul(const Tensor& a, const Tensor& b) {
  return binary(BinaryOp::mul, "mul", pair_operands("mul", a, b));
}
Tensor mul(const Tensor& a, double b) {
  return binary(BinaryOp::mul, "mul", pair_operands("mul", a, b));
}
Tensor mul(double a, const Tensor& b) {
  return binary(BinaryOp::mul, "mul", pair_operands("mul", a, b));
}

Tensor div(const Tensor& a, const Tensor& b) {
  return binary(BinaryOp::div, "div", pair_operands("div", a, b));
}
Tensor div(const Tensor& a, double b) {
  return binary(BinaryOp::div, "div", pair_operands("div", a, b));
}
Tensor div(double a, const Tensor& b) {
  return binary(BinaryOp::div, "div", pair_operands("div", a, b));
}

Tensor maximum(const Tensor& a, const Tensor& b) {
  return binary(BinaryOp::maximum, "maximum", pair_operands("maximum", a, b));
}
Tensor maximum(const Tensor& a, double b) {
  return binary(BinaryOp::maximum, "maximum", pair_operands("maximum", a, b));
}
Tensor maximum(double a, const Tensor& b) {
  return binary(BinaryOp::maximum, "maximum", pair_operands("maximum", a, b));
}

Tensor minimum(const Tensor& a, const Tensor& b) {
  return binary(BinaryOp::minimum, "minimum", pair_operands("minimum", a, b));
}
Tensor minimum(const Tensor& a, double b) {
  return binary(BinaryOp::minimum, "minimum", pair_operands("minimum", a, b));
}
Tensor minimum(double a, const Tensor& b) {
  return binary(BinaryOp::minimum, "minimum", pair_operands("minimum", a, b));
}

Tensor pow(const Tensor& a, const Tensor& b) {
  return binary(BinaryOp::pow, "pow", pair_operands("pow", a, b));
}
Tensor pow(const Tensor& a, double b) {
  if (a.defined() && is_floating(a.dtype())) {
    if (b == 2.0) return square(a);
    if (b == -1.0) return reciprocal(a);
  }
  return binary(BinaryOp::pow, "pow", pair_operands("pow", a, b));
}
Tensor pow(double a, const Tensor& b) {
  return binary(BinaryOp::pow, "pow", pair_operands("pow", a, b));
}

Tensor neg(const Tensor& x) {
  // A floating zero changes its sign too, which 0 - x would not do.
  return x.defined() && is_integer(x.dtype())
             ? binary(BinaryOp::sub, "neg", pair_operands("neg", 0.0, x))
             : binary(BinaryOp::mul, "neg", pair_operands("neg", x, -1.0));
}

Tensor& add_(Tensor& a, const Tensor& b, double alpha) {
  if (alpha == 1.0) return binary_in_place(BinaryOp::add, "add_", a, b);
  check_in_place("add_", a, b);
  if (a.numel() > 0) {
    const Tensor other = apart_from(b.expand(a.shape()), a);
    kAddScaled(a.device())(a, other, alpha, current_stream(a.device()));
  }
  a.storage()->bump_version();
  return a;
}
Tensor& add_(Tensor& a, double b) {
  return binary_in_place(BinaryOp::add, "add_", a, b);
}
Tensor& sub_(Tensor& a, const Tensor& b) {
  return binary_in_place(BinaryOp::sub, "sub_", a, b);
}
Tensor& sub_(Tensor& a, double b) {
  return binary_in_place(BinaryOp::sub, "sub_", a, b);
}
Tensor& mul_(Tensor& a, const Tensor& b) {
  return binary_in_place(BinaryOp::mul, "mul_", a, b);
}
Tensor& mul_(Tensor& a, double b) {
  return binary_in_place(BinaryOp::mul, "mul_", a, b);
}
Tensor& div_(Tensor& a, const Tensor& b) {
  return binary_in_place(BinaryOp::div, "div_", a, b);
}
Tensor& div_(Tensor& a, double b) {
  return binary_in_place(BinaryOp::div, "div_", a, b);
}

void list_arithmetic_ops(OpTable& table) {
  table.add(
      kBinary, kNumericTypes,
      {"add", "sub", "mul", "div", "maximum", "minimum", "pow", "neg", "sub_", "mul_", "div_"});
  table.add(kAddScaled, kNumericTypes);
}

}  // namespace weft
