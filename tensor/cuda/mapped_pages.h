#pragma once

#include <memory>

#include "block_heap.h"

namespace weft::cuda {

/// Addresses of a GPU, of which each page can be given memory and lose it again, so that one heap
/// serves blocks of any sizes without gaps between segments. Null where the driver cannot do it.
std::unique_ptr<PageRange> make_mapped_pages(int device_index);

}  // namespace weft::cuda
