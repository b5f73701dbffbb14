#pragma once

#include <cstddef>
#include <memory>

#include "weft/tensor/stream.h"

namespace weft::cuda {

/// Whether the address is in a block of allocate_pinned().
bool is_pinned(const void* data);

/// Notes that work on `stream` reads or writes these bytes, if they are of allocate_pinned(): the
/// block is not used again before that work is done. Returns whether they are.
bool note_pinned_use(const void* data, Stream stream);

}  // namespace weft::cuda
