#pragma once

#include <cstdint>

#include "weft/tensor/tensor.h"

namespace weft::attention {

/// Rotates x [B, T, H, D], D even, in place: with p = position + t, f_i = theta^(-2 i / D) and
/// h = D / 2,
///   x_i <- x_i cos(p f_i) - x_{i+h} sin(p f_i),   x_{i+h} <- x_i sin(p f_i) + x_{i+h} cos(p f_i).
/// `inverse` rotates back, which is also the gradient. Any floating type and strides; angles are
/// computed in double precision and kept in a table per (D, theta, type). Throws ShapeError,
/// DTypeError, ConfigError (theta must be above 0, position at least 0).
/// Source: Su et al., "RoFormer" (arXiv 2104.09864), eq. 15; halves paired as in Llama's code.
void rotary_embedding_(Tensor& x, int64_t position, double theta, bool inverse = false);

}  // namespace weft::attention
