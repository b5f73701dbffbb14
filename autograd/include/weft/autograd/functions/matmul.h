#pragma once

#include "weft/autograd/variable.h"
#include "weft/tensor/ops/matmul.h"

namespace weft::autograd {

/// weft::matmul with all its rank rules; saves both operands.
Variable matmul(const Variable& a, const Variable& b, const MatmulOptions& options = {});

}  // namespace weft::autograd
