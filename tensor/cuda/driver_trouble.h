#pragma once

#include <string>

#include <cuda_runtime_api.h>

namespace weft::cuda {

/// Why no GPU can be used, from what cudaGetDeviceCount() returned without finding one, and the
/// versions of CUDA that the driver (0: there is none) and the runtime are for.
std::string driver_trouble(cudaError_t status, int driver_version, int runtime_version);

}  // namespace weft::cuda
