#pragma once

#include "weft/tensor/tensor.h"

namespace weft {

// Activations of transformer blocks. x and the gradients are of one floating type and shape;
// results are dense. Computed in f32 (f64 for f64). All throw ShapeError, DTypeError.

/// x * sigmoid(x).
Tensor silu(const Tensor& x);
/// The gradient of x, given dy = the gradient of silu(x).
Tensor silu_backward(const Tensor& dy, const Tensor& x);

/// How gelu is computed.
enum class Gelu {
  exact,  ///< x * Phi(x), by the error function
  tanh,   ///< x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3)))
};

/// x times the distribution function of the normal distribution (Hendrycks and Gimpel, "Gaussian
/// Error Linear Units", 2016).
Tensor gelu(const Tensor& x, Gelu form = Gelu::exact);
Tensor gelu_backward(const Tensor& dy, const Tensor& x, Gelu form = Gelu::exact);

/// silu(gate) * up (Shazeer, "GLU Variants Improve Transformer", 2020, eq. 5), in one pass.
Tensor swiglu(const Tensor& gate, const Tensor& up);

/// Gradients of swiglu.
struct SwigluGrads {
  Tensor dgate, dup;
};
/// Both gradients in one pass over dy, gate and up.
SwigluGrads swiglu_backward(const Tensor& dy, const Tensor& gate, const Tensor& up);
/// The same into tensors of gate's shape and type, which may be views (the halves of a packed
/// buffer).
void swiglu_backward_into(Tensor& dgate, Tensor& dup, const Tensor& dy, const Tensor& gate,
                          const Tensor& up);

/// swiglu of the halves of the last axis: packed [..., 2F] holds gate, then up; gives [..., F].
Tensor swiglu_packed(const Tensor& packed);
/// The gradient of packed, [..., 2F], so that a projection to 2F features has one product backward.
Tensor swiglu_packed_backward(const Tensor& dy, const Tensor& packed);
/// The same, in one pass that leaves swiglu_packed(packed) in dy: for a caller that needs it again
/// for the gradient of the product after it, and did not keep it. dy must be dense.
Tensor swiglu_packed_backward_(Tensor& dy, const Tensor& packed);

}  // namespace weft
