#pragma once

#include "weft/tensor/tensor.h"

namespace weft {

/// What layer_norm_forward() gives.
struct LayerNormResult {
  Tensor y;     ///< shape and type of x
  Tensor mean;  ///< of each row: x's shape without the last axis, f32 (f64 for f64)
  Tensor rstd;  ///< 1 / sqrt(variance + eps) of each row, likewise
};

/// Gradients of layer_norm.
struct LayerNormGrads {
  Tensor dx;     ///< shape and type of x
  Tensor dgain;  ///< type of gain; undefined when not asked for
  Tensor dbias;  ///< likewise
};

/// y = (x - mean) / sqrt(variance + eps) * gain + bias over the last axis, with the variance of the
/// population (Ba, Kiros and Hinton, "Layer Normalization", 2016, eq. 4). x: [..., E] of a floating
/// type; gain and bias: [E], f32 or of x's type; an undefined bias means none. Sums are kept in f32
/// (f64 for f64). Throws ShapeError, DTypeError.
Tensor layer_norm(const Tensor& x, const Tensor& gain, const Tensor& bias = {}, double eps = 1e-5);

/// layer_norm() that also gives what layer_norm_backward() needs.
LayerNormResult layer_norm_forward(const Tensor& x, const Tensor& gain, const Tensor& bias = {},
                                   double eps = 1e-5);

/// Which gradients of parameters layer_norm_backward() makes.
struct LayerNormWants {
  bool dgain = true;
  bool dbias = true;
};

/// Gradients given dy = the gradient of y, in one pass; dbias comes in gain's type.
LayerNormGrads layer_norm_backward(const Tensor& dy, const Tensor& x, const Tensor& gain,
                                   const Tensor& mean, const Tensor& rstd,
                                   LayerNormWants wants = {});

}  // namespace weft
