#pragma once

// Checks of what the CUDA runtime and its libraries return.
#include <cuda_runtime_api.h>

namespace weft::cuda {

/// Throws CudaError: the call, the error's name and text, the current device and the source line.
[[noreturn]] void throw_cuda_error(cudaError_t status, const char* call, const char* file,
                                   int line);

}  // namespace weft::cuda

/// Throws CudaError unless the call of the CUDA runtime succeeds.
#define WEFT_CUDA_CHECK(call)                                                      \
  do {                                                                             \
    const cudaError_t weft_cuda_status = (call);                                   \
    if (weft_cuda_status != cudaSuccess) [[unlikely]]                              \
      ::weft::cuda::throw_cuda_error(weft_cuda_status, #call, __FILE__, __LINE__); \
  } while (false)
