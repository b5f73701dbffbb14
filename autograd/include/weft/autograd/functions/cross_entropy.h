#pragma once

#include "weft/autograd/variable.h"
#include "weft/tensor/ops/cross_entropy.h"

namespace weft::autograd {

/// weft::cross_entropy: mean loss over the targets that are not ignored, rank 0. Saves the logits
/// and one number a row.
Variable cross_entropy(const Variable& logits, const Tensor& targets,
                       int64_t ignore_index = kIgnoreIndex, double label_smoothing = 0);

/// weft::cross_entropy_per_token: the loss of each row, [N].
Variable cross_entropy_per_token(const Variable& logits, const Tensor& targets,
                                 int64_t ignore_index = kIgnoreIndex, double label_smoothing = 0);

/// weft::linear_cross_entropy: the mean loss of hidden weight^T, whose logits never exist all at
/// once, or with `scale` (see LinearCrossEntropyOptions) that times the sum of the losses. The
/// gradients are computed with the loss, chunk by chunk, and kept instead of the logits; backward
/// only scales them where the gradient of the loss is not 1. dweight has weight's type.
Variable linear_cross_entropy(const Variable& hidden, const Variable& weight, const Tensor& targets,
                              int64_t ignore_index = kIgnoreIndex, double label_smoothing = 0,
                              const Tensor& scale = {});

}  // namespace weft::autograd
