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

}  // namespace weft::autograd
