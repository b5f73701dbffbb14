#pragma once

#include "weft/tensor/tensor.h"

namespace weft {

/// [..., E] as [rows, E]; a copy where the leading axes cannot be merged.
Tensor merged_rows(const Tensor& x);

/// Throws where `weight` is no [N, K] that multiplies `x`, called `name`: type and device.
void check_weight(const char* op, const char* name, const Tensor& x, const Tensor& weight);

/// Throws where these are no operands of linear(); bias may be undefined.
void check_linear(const char* op, const Tensor& x, const Tensor& weight, const Tensor& bias);

/// Throws where dy is no gradient of the output of linear() with this weight.
void check_linear_gradient(const char* op, const Tensor& dy, const Tensor& weight);

}  // namespace weft
