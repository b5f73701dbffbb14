#pragma once

#include <vector>

#include "weft/autograd/variable.h"

namespace weft::autograd {

/// weft::cat; the gradient is cut into the pieces.
Variable cat(const std::vector<Variable>& variables, int axis);

/// weft::stack; the gradient is cut into the pieces.
Variable stack(const std::vector<Variable>& variables, int axis);

}  // namespace weft::autograd
