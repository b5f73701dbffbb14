#pragma once

#include "weft/autograd/variable.h"

namespace weft::nn {

using autograd::Variable;

/// Mean of (prediction - target)^2 over all elements. Shapes must be equal; ShapeError otherwise.
Variable mse_loss(const Variable& prediction, const Variable& target);

/// Mean of -y log sigmoid(x) - (1 - y) log(1 - sigmoid(x)), computed without overflow as
/// max(x, 0) - x y + log(1 + exp(-|x|)). Shapes must be equal; targets lie in [0, 1].
Variable bce_with_logits_loss(const Variable& logits, const Variable& target);

/// Mean of -log softmax(logits)[target] over the rows whose target is not `ignore_index`.
/// logits [..., C], targets [...] of i64 or i32; other targets outside [0, C) are an IndexError.
Variable cross_entropy_loss(const Variable& logits, const Tensor& targets,
                            int64_t ignore_index = -100);

}  // namespace weft::nn
