#pragma once

#include "weft/autograd/variable.h"

namespace weft::autograd {

/// What topk() gives; both have k entries along the axis.
struct TopK {
  Variable values;
  Tensor indices;  ///< i64
};

/// weft::topk; saves the indices. The gradient goes to the chosen elements alone.
TopK topk(const Variable& x, int64_t k, int axis = -1);

}  // namespace weft::autograd
