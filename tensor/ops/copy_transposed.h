#pragma once

#include "weft/tensor/stream.h"
#include "weft/tensor/tensor.h"

namespace weft {

/// Copies between tensors of one type and shape that are dense along different axes, in tiles that
/// are read along the one and written along the other. Returns false, with nothing done, where
/// tiles do not pay off.
bool copy_transposed_cuda(const Tensor& source, Tensor& destination, Stream stream);

}  // namespace weft
