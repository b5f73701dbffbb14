#pragma once

#include "weft/autograd/variable.h"

namespace weft::autograd {

/// weft::cumsum; saves nothing.
Variable cumsum(const Variable& x, int axis, bool exclusive = false, bool reverse = false);

}  // namespace weft::autograd
