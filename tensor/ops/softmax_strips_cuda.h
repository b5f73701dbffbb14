#pragma once

#include "weft/tensor/stream.h"
#include "weft/tensor/tensor.h"

namespace weft::cuda {

/// softmax_cuda() along the middle axis of [O, N, I] in one kernel that finds columns in the
/// second-level cache when it reads them again. False, with nothing done, where the type, the
/// layout or the length do not suit it.
bool softmax_strips_cuda(const Tensor& x, Tensor& y, bool log, Stream stream);

}  // namespace weft::cuda
