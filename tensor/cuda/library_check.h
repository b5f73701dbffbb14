#pragma once

#include "weft/tensor/stream.h"

namespace weft::cuda {

/// With WEFT_CUDA_SYNC=1 waits for what a library has put on the stream, and throws CudaError,
/// which names the op, where that failed: the next op's launch would be blamed for it otherwise.
void check_library_work(const char* op, Stream stream);

}  // namespace weft::cuda
