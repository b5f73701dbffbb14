#pragma once

namespace weft::cuda {

/// Unless WEFT_CUDA_MEMCPY=0: dense tensors are copied on a device by the driver. compute-sanitizer
/// looks at its copies in a graph before the graph's kernels have written what is copied.
bool may_copy_by_driver();

}  // namespace weft::cuda
