#pragma once

#include "weft/autograd/variable.h"

namespace weft::autograd {

/// weft::softmax; saves the result.
Variable softmax(const Variable& x, int axis = -1);

/// weft::log_softmax; saves the result.
Variable log_softmax(const Variable& x, int axis = -1);

}  // namespace weft::autograd
