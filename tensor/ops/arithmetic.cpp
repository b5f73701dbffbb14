#include "weft/tensor/ops/arithmetic.h"

#include "weft/tensor/check.h"
#include "weft/tensor/kernel.h"

#include "ops/arithmetic_kernels.h"
#include "ops/elementwise.h"

namespace weft {
namespace {

constexpr Kernel<void(BinaryOp, const char*, const Operand&, const Operand&, Tensor&, Stream)>
    kBinary{"arithmetic", &binary_cpu, WEFT_CUDA_KERNEL(binary_cuda)};
constexpr Kernel<void(Tensor&, const Tensor&, double, Stream)> kAddScaled{
    "add_", &add_scaled_cpu, WEFT_CUDA_KERNEL(add_scaled_cuda)};

void check_numeric(const char* op, const Tensor& x) {
  WEFT_CHECK(x.defined(), ShapeError, "{}: undefined tensor", op);
  WEFT_CHECK(x.dtype() != DType::boolean, DTypeError, "{}: takes any type but bool, got {}", op, x);
}

Tensor run(BinaryOp op, const char* name, const Operand& a, const Operand& b, const Shape& shape,
           const Tensor& like) {
  Tensor out = empty(shape, like.dtype(), like.device());
  if (out.numel() > 0) kBinary(out.device())(op, name, a, b, out, current_stream(out.device()));
  return out;
}

Tensor binary(BinaryOp op, const char* name, const Tensor& a, const Tensor& b) {
  check_numeric(name, a);
  check_numeric(name, b);
  WEFT_CHECK(a.dtype() == b.dtype(), DTypeError,
             "{}: operands must have the same type, got {} and {}; convert one with to()", name, a,
             b);
  WEFT_CHECK(a.device() == b.device(), DeviceError,
             "{}: operands must be on the same device, got {} and {}", name, a, b);
  const Shape shape =
      a.shape() == b.shape() ? a.shape() : broadcast_shapes(name, a.shape(), b.shape());
  return run(op, name, {a.expand(shape)}, {b.expand(shape)}, shape, a);
}

Tensor binary(BinaryOp op, const char* name, const Tensor& a, double b) {
  check_numeric(name, a);
  return run(op, name, {a}, {{}, b}, a.shape(), a);
}

Tensor binary(BinaryOp op, const char* name, double a, const Tensor& b) {
  check_numeric(name, b);
  return run(op, name, {{}, a}, {b}, b.shape(), b);
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
  return binary(BinaryOp::add, "add", a, b);
}
Tensor add(const Tensor& a, double b) {
  return binary(BinaryOp::add, "add", a, b);
}
Tensor add(double a, const Tensor& b) {
  return binary(BinaryOp::add, "add", a, b);
}

Tensor sub(const Tensor& a, const Tensor& b) {
  return binary(BinaryOp::sub, "sub", a, b);
}
Tensor sub(const Tensor& a, double b) {
  return binary(BinaryOp::sub, "sub", a, b);
}
Tensor sub(double a, const Tensor& b) {
  return binary(BinaryOp::sub, "sub", a, b);
}

Tensor mul(const Tensor& a, const Tensor& b) {
  return binary(BinaryOp::mul, "mul", a, b);
}
Tensor mul(const Tensor& a, double b) {
  return binary(BinaryOp::mul, "mul", a, b);
}
Tensor mul(double a, const Tensor& b) {
  return binary(BinaryOp::mul, "mul", a, b);
}

Tensor div(const Tensor& a, const Tensor& b) {
  return binary(BinaryOp::div, "div", a, b);
}
Tensor div(const Tensor& a, double b) {
  return binary(BinaryOp::div, "div", a, b);
}
Tensor div(double a, const Tensor& b) {
  return binary(BinaryOp::div, "div", a, b);
}

Tensor maximum(const Tensor& a, const Tensor& b) {
  return binary(BinaryOp::maximum, "maximum", a, b);
}
Tensor maximum(const Tensor& a, double b) {
  return binary(BinaryOp::maximum, "maximum", a, b);
}
Tensor maximum(double a, const Tensor& b) {
  return binary(BinaryOp::maximum, "maximum", a, b);
}

Tensor minimum(const Tensor& a, const Tensor& b) {
  return binary(BinaryOp::minimum, "minimum", a, b);
}
Tensor minimum(const Tensor& a, double b) {
  return binary(BinaryOp::minimum, "minimum", a, b);
}
Tensor minimum(double a, const Tensor& b) {
  return binary(BinaryOp::minimum, "minimum", a, b);
}

Tensor pow(const Tensor& a, const Tensor& b) {
  return binary(BinaryOp::pow, "pow", a, b);
}
Tensor pow(const Tensor& a, double b) {
  return binary(BinaryOp::pow, "pow", a, b);
}
Tensor pow(double a, const Tensor& b) {
  return binary(BinaryOp::pow, "pow", a, b);
}

Tensor neg(const Tensor& x) {
  // A floating zero changes its sign too, which 0 - x would not do.
  return x.defined() && is_integer(x.dtype()) ? binary(BinaryOp::sub, "neg", 0.0, x)
                                              : binary(BinaryOp::mul, "neg", x, -1.0);
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

}  // namespace weft
