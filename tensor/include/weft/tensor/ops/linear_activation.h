#pragma once

#include <string_view>

#include "weft/tensor/tensor.h"

namespace weft {

// A linear layer and the activation after it: the first half of an MLP. On a GPU the product
// applies the activation to its sums, and the product that makes the gradient of the hidden
// features applies its derivative, where cuBLASLt can and timing finds that faster than passes over
// memory. Relu rides on products of f32, bf16 and f16, gelu_tanh on those of bf16 and f16 (cuBLASLt
// takes the GPU's approximate tanh, which errs by up to 2^-11, so that f32 has kernels of its own),
// gelu on none. Two things are then the library's: relu of NaN is 0, and the derivative of relu at
// exactly 0 is 1.

/// What lies between the two products of an MLP.
enum class HiddenActivation {
  gelu,       ///< weft::gelu(), exact
  gelu_tanh,  ///< weft::gelu() by tanh, `approximate=tanh` elsewhere
  relu,
};

/// "gelu", "gelu_tanh", "relu".
std::string_view to_string(HiddenActivation activation);

/// A hidden layer's output and what the derivative of its activation is had from.
struct HiddenFeatures {
  Tensor y;      ///< [..., N], after the activation
  Tensor saved;  ///< gelu, gelu_tanh: [..., N], before it; relu: a mask of the GPU's, or undefined
};

/// activation(x w^T + bias) over the last axis, with the operands of linear(). `saved` is made for
/// linear_activation_backward() alone, so undefined without `for_backward`. Throws ShapeError,
/// DTypeError, DeviceError.
HiddenFeatures linear_activation(const Tensor& x, const Tensor& weight, const Tensor& bias,
                                 HiddenActivation activation, bool for_backward);

/// Gradients of a hidden layer's linear map.
struct HiddenGrads {
  Tensor dsums;  ///< of x w^T + bias, [..., N] of dy's type
  Tensor dbias;  ///< of its bias, [N] of dy's type; undefined where it was not asked for
};
/// From dy, the gradient of linear(hidden.y, weight): dy weight times the activation's derivative,
/// and with `want_dbias` the sums of that over all leading axes. dy: [..., E]; weight: [E, N], of
/// dy's type or f32; hidden: made with `for_backward`, of dy's type and leading axes.
HiddenGrads linear_activation_backward(const Tensor& dy, const Tensor& weight,
                                       const HiddenFeatures& hidden, HiddenActivation activation,
                                       bool want_dbias);

}  // namespace weft
