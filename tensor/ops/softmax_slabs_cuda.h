#pragma once

#include "weft/tensor/stream.h"
#include "weft/tensor/tensor.h"

namespace weft::cuda {

/// softmax_cuda() along the middle axis of [O, N, I] by blocks that keep a slab of neighbouring
/// columns in their shared memory, so that it is read once. False, with nothing done, where the
/// type, the layout, the length or the GPU do not allow that.
bool softmax_slabs_cuda(const Tensor& x, Tensor& y, bool log, Stream stream);

}  // namespace weft::cuda
