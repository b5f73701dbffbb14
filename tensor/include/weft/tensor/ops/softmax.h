#pragma once

#include "weft/tensor/tensor.h"

namespace weft {

// Floating tensors of any layout; results are dense. Half types are computed in f32 and rounded
// once. Throws ShapeError for an axis out of range and for tensors of different shapes, DTypeError
// for types that are not floating or differ.

/// exp(x) / sum(exp(x)) along `axis`. Where all are -infinity, as in a row without any visible key,
/// the result is 0, not NaN. NaN or +infinity make their row NaN. Results below 1e-38 are 0 in f32.
Tensor softmax(const Tensor& x, int axis = -1);

/// x - log(sum(exp(x))) along `axis`; -infinity where all are.
Tensor log_softmax(const Tensor& x, int axis = -1);

/// Gradient of x for the gradient `dy` of y = softmax(x): y (dy - sum(dy y)). 0 where all y are.
Tensor softmax_backward(const Tensor& dy, const Tensor& y, int axis = -1);

/// Gradient of x for the gradient `dy` of y = log_softmax(x): dy - exp(y) sum(dy). 0 where all y
/// are -infinity.
Tensor log_softmax_backward(const Tensor& dy, const Tensor& y, int axis = -1);

}  // namespace weft
