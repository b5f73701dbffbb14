#pragma once

#include "weft/tensor/tensor.h"

namespace weft {

// Elementwise functions of one tensor; the result is dense and has its shape and type. They take
// the floating types, those that say so integers as well; DTypeError otherwise. Half types are
// computed in float and rounded once. The float versions of exp, expm1, log, log1p, tanh, sigmoid
// and erf stay within 2.5 units in the last place.

Tensor exp(const Tensor& x);
Tensor expm1(const Tensor& x);  ///< e^x - 1, accurate near zero
Tensor log(const Tensor& x);    ///< natural logarithm: -infinity at 0, NaN below
Tensor log1p(const Tensor& x);  ///< log(1 + x), accurate near zero
Tensor sqrt(const Tensor& x);
Tensor rsqrt(const Tensor& x);       ///< 1 / sqrt(x)
Tensor reciprocal(const Tensor& x);  ///< 1 / x
Tensor square(const Tensor& x);      ///< integers too, wrapping around
Tensor abs(const Tensor& x);         ///< integers too
Tensor sign(const Tensor& x);        ///< -1, 0 or 1; NaN stays; integers too
Tensor sin(const Tensor& x);         ///< of radians
Tensor cos(const Tensor& x);         ///< of radians
Tensor tanh(const Tensor& x);
Tensor sigmoid(const Tensor& x);  ///< 1 / (1 + e^-x)
Tensor relu(const Tensor& x);     ///< max(x, 0); NaN stays; integers too
Tensor erf(const Tensor& x);      ///< error function
Tensor floor(const Tensor& x);
Tensor ceil(const Tensor& x);
Tensor round(const Tensor& x);  ///< to the nearest whole number, halves to the even one

/// min(max(x, lowest), highest); NaN stays; integers too. An infinite bound is none. Throws
/// ConfigError unless lowest <= highest.
Tensor clamp(const Tensor& x, double lowest, double highest);

/// The differentiable functions above, for backward passes.
enum class UnaryFunction : uint8_t {
  exp,
  expm1,
  log,
  log1p,
  sqrt,
  rsqrt,
  reciprocal,
  square,
  abs,
  sin,
  cos,
  tanh,
  sigmoid,
  relu,
  erf
};

/// Whether unary_backward() of this function is computed from its output rather than its input.
bool backward_uses_output(UnaryFunction function);

/// grad_output times the derivative of `function`, in one pass. `saved` is the function's input, or
/// its output if backward_uses_output(). abs and relu have the derivative 0 at 0.
Tensor unary_backward(UnaryFunction function, const Tensor& saved, const Tensor& grad_output);

/// grad_output where lowest <= x <= highest, 0 elsewhere.
Tensor clamp_backward(const Tensor& x, double lowest, double highest, const Tensor& grad_output);

}  // namespace weft
