#pragma once

#include "weft/tensor/tensor.h"

namespace weft {

// Products of a decoding step, whose few rows make reading the weight all the work. On a GPU each
// is one kernel for up to 8 rows of f32, bf16 or f16; elsewhere they are composed of rms_norm,
// linear and swiglu. Nothing is recorded by autograd.

/// Rows that enter a product: x, or rms_norm(x + residual; gain).
struct DecodeRows {
  Tensor x;              ///< [M, K] of a floating type
  Tensor residual = {};  ///< [M, K] of x's type, added first; undefined: none
  Tensor gain = {};      ///< [K] of x's type or f32; undefined: no norm
  double eps = 0;        ///< of the norm
};

/// The product, and the sum that a later layer adds to.
struct DecodeProduct {
  Tensor y;    ///< [M, N] of x's type
  Tensor sum;  ///< [M, K]: x + residual, or x where there is no residual
};

/// rows weight^T, weight: [N, K] of x's type or f32 (read from low_precision_copy() then). With
/// `settled` nothing on the stream still writes gains or weights or their copies, which lets the
/// GPU read them before earlier kernels are done. Throws ShapeError, DTypeError, DeviceError.
DecodeProduct decode_linear(const DecodeRows& rows, const Tensor& weight, bool settled = false);

/// silu(rows gate^T) * (rows up^T), gate and up: [N, K].
DecodeProduct decode_swiglu(const DecodeRows& rows, const Tensor& gate, const Tensor& up,
                            bool settled = false);

}  // namespace weft
