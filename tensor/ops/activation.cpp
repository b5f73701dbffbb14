#include "weft/tensor/ops/activation.h"

#include "weft/tensor/check.h"
#include "weft/tensor/kernel.h"

#include "ops/activation_kernels.h"
#include "ops/elementwise.h"
#include "ops/op_list.h"
#include "ops/rows.h"

namespace weft {
namespace {

constexpr Kernel<void(Activation, const Tensor&, Tensor&, Stream)> kForward{
    "activation", &activation_forward_cpu, WEFT_CUDA_KERNEL(activation_forward_cuda)};
constexpr Kernel<void(Activation, const Tensor&, const Tensor&, Tensor&, Stream)> kBackward{
    "activation_backward", &activation_backward_cpu, WEFT_CUDA_KERNEL(activation_backward_cuda)};
constexpr Kernel<void(const Tensor&, const Tensor&, Tensor&, Stream)> kSwigluForward{
    "swiglu", &swiglu_forward_cpu, WEFT_CUDA_KERNEL(swiglu_forward_cuda)};
constexpr Kernel<void(const Tensor&, const Tensor&, const Tensor&, Tensor&, Tensor&, Tensor&,
                      Stream)>
    kSwigluBackward{"swiglu_backward", &swiglu_backward_cpu,
                    WEFT_CUDA_KERNEL(swiglu_backward_cuda)};

void check_floating(const char* op, const char* name, const Tensor& tensor) {
  WEFT_CHECK(tensor.defined(), ShapeError, "{}: {} is undefined", op, name);
  WEFT_CHECK(is_floating(tensor.dtype()), DTypeError, "{}: {} must be of a floating type, got {}",
             op, name, tensor);
}

/// Itself where vectors can be read from it, else a copy.
Tensor readable(const Tensor& tensor) {
  const bool dense = tensor.rank() == 0 || tensor.shape().back() <= 1 || tensor.stride(-1) == 1;
  return dense ? tensor : tensor.contiguous();
}

Tensor forward(const char* op, Activation activation, const Tensor& x) {
  check_floating(op, "x", x);
  Tensor y = empty(x.shape(), x.dtype(), x.device());
  if (x.numel() > 0) {
    kForward(x.device())(activation, readable(x), y, current_stream(x.device()));
  }
  return y;
}

Tensor backward(const char* op, Activation activation, const Tensor& dy, const Tensor& x) {
  check_floating(op, "x", x);
  check_same_kind(op, "dy", dy, "x", x);
  Tensor dx = empty(x.shape(), x.dtype(), x.device());
  if (x.numel() > 0) {
    kBackward(x.device())(activation, readable(dy), readable(x), dx, current_stream(x.device()));
  }
  return dx;
}

Activation activation_of(Gelu form) {
  return form == Gelu::exact ? Activation::gelu_exact : Activation::gelu_tanh;
}

struct Halves {
  Tensor gate, up;
};

Halves halves(const char* op, const Tensor& packed) {
  check_floating(op, "packed", packed);
  WEFT_CHECK(packed.rank() >= 1 && packed.shape().back() % 2 == 0, ShapeError,
             "{}: packed must have an even last axis (gate, then up), got {}", op, packed);
  const int64_t features = packed.size(-1) / 2;
  return {packed.slice(-1, 0, features), packed.slice(-1, features, 2 * features)};
}

}  // namespace

Tensor silu(const Tensor& x) {
  return forward("silu", Activation::silu, x);
}

Tensor silu_backward(const Tensor& dy, const Tensor& x) {
  return backward("silu_backward", Activation::silu, dy, x);
}

Tensor gelu(const Tensor& x, Gelu form) {
  return forward("gelu", activation_of(form), x);
}

Tensor gelu_backward(const Tensor& dy, const Tensor& x, Gelu form) {
  return backward("gelu_backward", activation_of(form), dy, x);
}

Tensor swiglu(const Tensor& gate, const Tensor& up) {
  check_floating("swiglu", "gate", gate);
  check_same_kind("swiglu", "up", up, "gate", gate);
  Tensor y = empty(gate.shape(), gate.dtype(), gate.device());
  if (y.numel() > 0) {
    kSwigluForward(y.device())(readable(gate), readable(up), y, current_stream(y.device()));
  }
  return y;
}

void swiglu_backward_into(Tensor& dgate, Tensor& dup, const Tensor& dy, const Tensor& gate,
                          const Tensor& up) {
  constexpr const char* kOp = "swiglu_backward";
  check_floating(kOp, "gate", gate);
  check_same_kind(kOp, "up", up, "gate", gate);
  check_same_kind(kOp, "dy", dy, "gate", gate);
  check_same_kind(kOp, "dgate", dgate, "gate", gate);
  check_same_kind(kOp, "dup", dup, "gate", gate);
  check_writable(kOp, dgate);
  check_writable(kOp, dup);
  if (gate.numel() > 0) {
    Tensor no_y;
    kSwigluBackward(gate.device())(readable(dy), readable(gate), readable(up), dgate, dup, no_y,
                                   current_stream(gate.device()));
  }
  dgate.storage()->bump_version();
  dup.storage()->bump_version();
}

SwigluGrads swiglu_backward(const Tensor& dy, const Tensor& gate, const Tensor& up) {
  WEFT_CHECK(gate.defined(), ShapeError, "swiglu_backward: gate is undefined");
  SwigluGrads grads{empty(gate.shape(), gate.dtype(), gate.device()),
                    empty(gate.shape(), gate.dtype(), gate.device())};
  swiglu_backward_into(grads.dgate, grads.dup, dy, gate, up);
  return grads;
}

Tensor swiglu_packed(const Tensor& packed) {
  const auto [gate, up] = halves("swiglu_packed", packed);
  return swiglu(gate, up);
}

Tensor swiglu_packed_backward(const Tensor& dy, const Tensor& packed) {
  const auto [gate, up] = halves("swiglu_packed_backward", packed);
  Tensor dpacked = empty(packed.shape(), packed.dtype(), packed.device());
  auto [dgate, dup] = halves("swiglu_packed_backward", dpacked);
  swiglu_backward_into(dgate, dup, dy, gate, up);
  return dpacked;
}

Tensor swiglu_packed_backward_(Tensor& dy, const Tensor& packed) {
  constexpr const char* kOp = "swiglu_packed_backward_";
  const auto [gate, up] = halves(kOp, packed);
  check_same_kind(kOp, "dy", dy, "half of packed", gate);
  check_writable(kOp, dy);
  WEFT_CHECK(dy.is_contiguous(), ShapeError, "{}: dy must be dense, got {}", kOp, dy);
  Tensor dpacked = empty(packed.shape(), packed.dtype(), packed.device());
  auto [dgate, dup] = halves(kOp, dpacked);
  if (dy.numel() > 0) {
    kSwigluBackward(dy.device())(dy, readable(gate), readable(up), dgate, dup, dy,
                                 current_stream(dy.device()));
  }
  dy.storage()->bump_version();
  return dpacked;
}

void list_activation_ops(OpTable& table) {
  table.add(kForward, kFloatingTypes, {"silu", "gelu"});
  table.add(kBackward, kFloatingTypes, {"silu_backward", "gelu_backward"});
  table.add(kSwigluForward, kFloatingTypes);
  table.add(kSwigluBackward, kFloatingTypes);
}

}  // namespace weft
