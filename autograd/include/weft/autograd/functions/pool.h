#pragma once

#include "weft/autograd/variable.h"
#include "weft/tensor/ops/pool.h"

namespace weft::autograd {

/// weft::max_pool2d and so on. The gradient of a maximum goes to the element that won; saves the
/// indices of those. Means save nothing.
Variable max_pool2d(const Variable& x, const Pool2dOptions& options = {});
Variable avg_pool2d(const Variable& x, const Pool2dOptions& options = {});
Variable max_pool1d(const Variable& x, const Pool1dOptions& options = {});
Variable avg_pool1d(const Variable& x, const Pool1dOptions& options = {});

}  // namespace weft::autograd
