#pragma once

#include "weft/tensor/stream.h"
#include "weft/tensor/tensor.h"

namespace weft {

/// The k = values.size(1) largest elements of each row of x [R, N], whose rows are dense and
/// equally far apart; values and indices [R, k] are dense.
void topk_cpu(const Tensor& x, Tensor& values, Tensor& indices, Stream stream);
void topk_cuda(const Tensor& x, Tensor& values, Tensor& indices, Stream stream);

}  // namespace weft
