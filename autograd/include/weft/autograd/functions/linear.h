#pragma once

#include "weft/autograd/variable.h"

namespace weft::autograd {

/// weft::linear: y = x w^T + bias; an undefined bias means none. Saves x and the weight. Gradients
/// of weight and bias have the types of those, so that f32 masters of bf16 layers get f32
/// gradients. With `recompute_y` functions of y need not keep it: their backward multiplies again.
Variable linear(const Variable& x, const Variable& weight, const Variable& bias = {},
                bool recompute_y = false);

}  // namespace weft::autograd
