#pragma once

#include "weft/tensor/tensor.h"

namespace weft {

/// An uninitialised CPU tensor in page-locked memory, from which copies to a GPU run beside the
/// host's and the GPU's work: copy_() and to() return at once, and the elements must not be changed
/// before the stream of the copy is done. Serves every GPU; ordinary memory where none is
/// available.
Tensor empty_pinned(const Shape& shape, DType dtype = DType::f32);

}  // namespace weft
