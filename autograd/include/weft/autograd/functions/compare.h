#pragma once

#include "weft/autograd/variable.h"

namespace weft::autograd {

/// a where `condition` (a bool tensor) holds, b elsewhere; all three broadcast. The condition has
/// no gradient. Errors as weft::where.
Variable where(const Tensor& condition, const Variable& a, const Variable& b);
Variable where(const Tensor& condition, const Variable& a, double b);
Variable where(const Tensor& condition, double a, const Variable& b);

}  // namespace weft::autograd
