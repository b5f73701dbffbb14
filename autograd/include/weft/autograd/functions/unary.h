#pragma once

#include "weft/autograd/variable.h"

namespace weft::autograd {

// Differentiable versions of weft/tensor/ops/unary.h. Each backward is one fused kernel and keeps
// one tensor: the output where the derivative can be had from it, else the input. abs and relu have
// the derivative 0 at 0.

Variable exp(const Variable& x);
Variable expm1(const Variable& x);
Variable log(const Variable& x);
Variable log1p(const Variable& x);
Variable sqrt(const Variable& x);
Variable rsqrt(const Variable& x);
Variable reciprocal(const Variable& x);
Variable square(const Variable& x);
Variable abs(const Variable& x);
Variable sin(const Variable& x);
Variable cos(const Variable& x);
Variable tanh(const Variable& x);
Variable sigmoid(const Variable& x);
Variable relu(const Variable& x);
Variable erf(const Variable& x);

/// The gradient passes where lowest <= x <= highest.
Variable clamp(const Variable& x, double lowest, double highest);

}  // namespace weft::autograd
