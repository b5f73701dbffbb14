#pragma once

#include "weft/autograd/variable.h"
#include "weft/tensor/ops/activation.h"

namespace weft::autograd {

// The functions of weft/tensor/ops/activation.h. All save their inputs alone and recompute the rest
// in one pass backward.

Variable silu(const Variable& x);
Variable gelu(const Variable& x, Gelu form = Gelu::exact);
/// silu(gate) * up.
Variable swiglu(const Variable& gate, const Variable& up);
/// packed [..., 2F] holds gate, then up.
Variable swiglu_packed(const Variable& packed);
/// linear(swiglu_packed(packed), weight): packed [..., 2F], weight [N, F] of its type or f32. Keeps
/// `packed` alone: the pass that makes its gradient computes the product's operand again.
Variable swiglu_linear(const Variable& packed, const Variable& weight);

}  // namespace weft::autograd
