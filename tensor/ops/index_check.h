#pragma once

#include <string>

#include "weft/tensor/tensor.h"

namespace weft {

/// Throws IndexError for the first element of `index` (i64 or i32) outside [0, size): "gather:
/// index 9 at position [0, 2] is outside axis 1 of [3, 4] f32 cpu". `noun` and `range` fill the
/// text. Indices on a GPU are not looked at, since that would wait for it: kernels check those that
/// they read, and report a bad one as a fault (tensor/cuda/fault.h).
void check_indices(const char* op, const char* noun, const Tensor& index, int64_t size,
                   const std::string& range);

}  // namespace weft
