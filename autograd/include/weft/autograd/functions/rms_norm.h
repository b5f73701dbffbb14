#pragma once

#include "weft/autograd/variable.h"

namespace weft::autograd {

/// What rms_norm_residual() gives.
struct RmsNormWithResidual {
  Variable sum;  ///< x + residual
  Variable y;    ///< the norm of sum
};

/// weft::rms_norm; saves x and one number a row.
Variable rms_norm(const Variable& x, const Variable& gain, double eps = 1e-6);

/// weft::rms_norm_residual; saves the sum and one number a row. Its backward adds the gradients of
/// both outputs in one pass. Without a residual (undefined) the sum is x. With `recompute_y`
/// functions of y need not keep it: backward computes it again from the sum.
RmsNormWithResidual rms_norm_residual(const Variable& x, const Variable& residual,
                                      const Variable& gain, double eps = 1e-6,
                                      bool recompute_y = false);

}  // namespace weft::autograd
