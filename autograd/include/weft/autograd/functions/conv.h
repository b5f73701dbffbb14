#pragma once

#include "weft/autograd/variable.h"
#include "weft/tensor/ops/conv.h"

namespace weft::autograd {

/// weft::conv2d and weft::conv1d; an undefined bias means none. Save x and the weight. Gradients of
/// weight and bias have the types of those.
Variable conv2d(const Variable& x, const Variable& weight, const Variable& bias = {},
                const Conv2dOptions& options = {});
Variable conv1d(const Variable& x, const Variable& weight, const Variable& bias = {},
                const Conv1dOptions& options = {});

}  // namespace weft::autograd
