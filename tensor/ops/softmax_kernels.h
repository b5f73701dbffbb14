#pragma once

#include "weft/tensor/stream.h"
#include "weft/tensor/tensor.h"

namespace weft {

// Tensors come as [R, N], with rows that are dense and equally far apart, for the last axis, or as
// [O, N, I], dense, for another; results are dense. With `log`, log_softmax.

void softmax_cpu(const Tensor& x, Tensor& y, bool log, Stream stream);
void softmax_backward_cpu(const Tensor& dy, const Tensor& y, Tensor& dx, bool log, Stream stream);

void softmax_cuda(const Tensor& x, Tensor& y, bool log, Stream stream);
void softmax_backward_cuda(const Tensor& dy, const Tensor& y, Tensor& dx, bool log, Stream stream);

}  // namespace weft
