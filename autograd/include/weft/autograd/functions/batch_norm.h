#pragma once

#include "weft/autograd/variable.h"
#include "weft/tensor/ops/batch_norm.h"

namespace weft::autograd {

/// weft::batch_norm_train; saves x and two numbers a channel. `running` is updated in place and
/// gets no gradient. Undefined gain or bias mean 1 and 0.
Variable batch_norm_train(const Variable& x, const Variable& gain, const Variable& bias,
                          const RunningStatistics& running = {}, double momentum = 0.1,
                          double eps = 1e-5);

/// weft::batch_norm_eval; the running statistics are constants.
Variable batch_norm_eval(const Variable& x, const Variable& gain, const Variable& bias,
                         const RunningStatistics& running, double eps = 1e-5);

}  // namespace weft::autograd
