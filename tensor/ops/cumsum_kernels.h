#pragma once

#include "weft/tensor/stream.h"
#include "weft/tensor/tensor.h"

namespace weft {

/// Running sums along the middle axis of x [O, N, I]; both tensors are dense.
void cumsum_cpu(const Tensor& x, Tensor& y, bool exclusive, bool reverse, Stream stream);
void cumsum_cuda(const Tensor& x, Tensor& y, bool exclusive, bool reverse, Stream stream);

}  // namespace weft
