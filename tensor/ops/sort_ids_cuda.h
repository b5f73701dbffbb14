#pragma once

#include <cstdint>

#include "weft/tensor/stream.h"
#include "weft/tensor/tensor.h"

namespace weft {

/// Ids in ascending order, and where each was; equal ones stay in their order.
struct SortedIds {
  Tensor memory;
  const uint32_t* keys = nullptr;  // ids; those outside the table are its size, and so come last
  const uint32_t* positions = nullptr;
};

/// Sorts dense ids of a table of `size` rows. Ids outside are reported as a fault of `op`. At most
/// 2^31 - 1 ids, and fewer rows.
SortedIds sort_ids_cuda(const char* op, const Tensor& ids, int64_t size, Stream stream);

}  // namespace weft
