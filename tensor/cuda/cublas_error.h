#pragma once

#include <cublasLt.h>

namespace weft::cuda {

/// Throws CudaError: the call, the status by name and in words, and the source line.
[[noreturn]] void throw_cublas_error(cublasStatus_t status, const char* call, const char* file,
                                     int line);

}  // namespace weft::cuda

/// Throws CudaError unless the call of cuBLASLt succeeds.
#define WEFT_CUBLAS_CHECK(call)                                                        \
  do {                                                                                 \
    const cublasStatus_t weft_cublas_status = (call);                                  \
    if (weft_cublas_status != CUBLAS_STATUS_SUCCESS) [[unlikely]]                      \
      ::weft::cuda::throw_cublas_error(weft_cublas_status, #call, __FILE__, __LINE__); \
  } while (false)
