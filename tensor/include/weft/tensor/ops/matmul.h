#pragma once

#include <optional>

#include "weft/tensor/tensor.h"

namespace weft {

struct MatmulOptions {
  bool transpose_a = false;  ///< takes `a` with its last two axes swapped
  bool transpose_b = false;  ///< takes `b` with its last two axes swapped
  double alpha = 1;          ///< factor of the product
  /// Type of the result; the operands' own by default. f32 gives the sums of bf16 and f16 operands
  /// without rounding them.
  std::optional<DType> out_dtype = std::nullopt;
};

/// Matrix product a b: [..., M, K] x [..., K, N] -> [..., M, N].
///
/// Leading (batch) axes broadcast. A vector counts as a row [1, K] on the left and a column [K, 1]
/// on the right, and the axis added for that is dropped from the result. Operands are f64, f32,
/// bf16 or f16, both the same; sums are kept in f32 (f64 for f64). Views are read in place as long
/// as one of their last two axes is dense. K = 0 gives zeros. The order of the sums of a large
/// product on a GPU can differ between runs of a program, as the fastest algorithm is found by
/// timing; not under set_deterministic(true). Throws ShapeError, DTypeError, DeviceError.
Tensor matmul(const Tensor& a, const Tensor& b, const MatmulOptions& options = {});

/// out = alpha a b + beta out, in place. `out` has the shape of matmul(a, b), the operands' type or
/// f32, and does not overlap them; with beta = 0 its old values are ignored, NaN included. Throws
/// as matmul() does, ConfigError on overlap.
void matmul_into(Tensor& out, const Tensor& a, const Tensor& b, double beta = 0,
                 const MatmulOptions& options = {});

/// Whether products of bf16 operands on this device run on instructions made for them, and so
/// faster than those of f32.
bool has_fast_bf16_matmul(Device device);

}  // namespace weft
