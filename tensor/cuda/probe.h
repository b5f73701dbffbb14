#pragma once

#include <cuda_runtime_api.h>

namespace weft::cuda {

/// Loads a kernel on the current device: fails where this build has no code for it.
cudaError_t probe_kernel();

}  // namespace weft::cuda
