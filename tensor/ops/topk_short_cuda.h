#pragma once

#include "weft/tensor/stream.h"
#include "weft/tensor/tensor.h"

namespace weft {

/// As topk_cuda, for few elements of short rows of bf16, f16 or f32. Returns false, with nothing
/// done, where rows or results are longer, or of another type.
bool topk_short_cuda(const Tensor& x, Tensor& values, Tensor& indices, Stream stream);

}  // namespace weft
