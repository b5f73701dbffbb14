#include "cuda/cublas_error.h"

#include "weft/tensor/check.h"

namespace weft::cuda {

void throw_cublas_error(cublasStatus_t status, const char* call, const char* file, int line) {
  throw_error<CudaError>("{} failed with {} ({}) at {}:{}", call, cublasLtGetStatusName(status),
                         cublasLtGetStatusString(status), file, line);
}

}  // namespace weft::cuda
