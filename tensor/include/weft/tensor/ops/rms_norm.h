#pragma once

#include "weft/tensor/tensor.h"

namespace weft {

/// What rms_norm_forward() gives.
struct RmsNormResult {
  Tensor y;            ///< shape and type of x
  Tensor inverse_rms;  ///< 1 / sqrt(mean(x^2) + eps) of each row: x's shape without the last axis,
                       ///< f32 (f64 for f64)
};

/// What rms_norm_residual() gives.
struct RmsNormResidualResult {
  Tensor sum;  ///< x + residual, rounded to x's type
  Tensor y;    ///< the norm of sum
  Tensor inverse_rms;
};

/// Gradients of rms_norm.
struct RmsNormGrads {
  Tensor dx;     ///< shape and type of x
  Tensor dgain;  ///< type of gain; undefined when not asked for
};

/// y = x / sqrt(mean(x^2) + eps) * gain over the last axis (Zhang and Sennrich, "Root Mean Square
/// Layer Normalization", 2019, eq. 4). x: [..., E] of a floating type; gain: [E], f32 or of x's
/// type. Sums are kept in f32 (f64 for f64). Throws ShapeError, DTypeError.
Tensor rms_norm(const Tensor& x, const Tensor& gain, double eps = 1e-6);

/// rms_norm() that also gives what rms_norm_backward() needs.
RmsNormResult rms_norm_forward(const Tensor& x, const Tensor& gain, double eps = 1e-6);

/// The norm of x + residual and that sum, in one pass. residual has the shape and type of x.
RmsNormResidualResult rms_norm_residual(const Tensor& x, const Tensor& residual, const Tensor& gain,
                                        double eps = 1e-6);

/// Gradients given dy = the gradient of y, in one pass. `x` is the normalised tensor: the sum in
/// the residual form. `dsum`, where defined, is the gradient that reaches the sum by its other use;
/// dx includes it.
RmsNormGrads rms_norm_backward(const Tensor& dy, const Tensor& x, const Tensor& gain,
                               const Tensor& inverse_rms, const Tensor& dsum = {},
                               bool want_dgain = true);

}  // namespace weft
