#pragma once

#include "weft/tensor/stream.h"
#include "weft/tensor/tensor.h"

namespace weft {

/// As topk_cuda, for few elements of long rows of bf16 or f16 that are aligned to 16 bytes. Returns
/// false, with nothing done, for others.
bool topk_halves_cuda(const Tensor& x, Tensor& values, Tensor& indices, Stream stream);

}  // namespace weft
