#pragma once

#include <cstdint>

#include "weft/autograd/variable.h"

namespace weft::attention {

using autograd::Variable;

/// Which rows of a weight belong to a head: of N blocks of the same number of rows, block n is head
/// n's, and of it the rows [first, last) are meant.
struct HeadRows {
  int64_t heads = 1;
  int64_t first = 0;
  int64_t last = 0;
};

/// A linear map of its own for every head n, with W_n = weight[rows of n], weight [N R, C]:
/// y_n = x_n W_n^T, x [B, T, N, C] -> [B, T, N, last - first], or, where `transposed`, y_n = x_n
/// W_n, x [B, T, N, last - first] -> [B, T, N, C]. The weight is of x's type or f32 and gets a
/// gradient of its own type, which is 0 in other rows. Saves x and the weight. Throws ShapeError,
/// DTypeError.
Variable head_linear(const Variable& x, const Variable& weight, const HeadRows& rows,
                     bool transposed = false);

}  // namespace weft::attention
