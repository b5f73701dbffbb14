#pragma once

#include "weft/tensor/stream.h"
#include "weft/tensor/tensor.h"

namespace weft::attention {

/// `table` [T, 2, D / 2]: cosines, then sines, of the rows of x, in the accumulator type.
void rotary_embedding_cpu(Tensor& x, const Tensor& table, bool inverse, Stream stream);

}  // namespace weft::attention
