#include "cuda/library_check.h"

#include "weft/tensor/check.h"

#include "cuda/device_context.h"
#include "cuda/launch_check.h"

namespace weft::cuda {

void check_library_work(const char* op, Stream stream) {
  if (!waits_for_kernels()) return;
  const cudaError_t status = cudaStreamSynchronize(native(stream));
  if (status == cudaSuccess) return;
  cudaGetLastError();
  throw_error<CudaError>("{}: the library's kernels failed on {} with {} ({})", op, stream.device(),
                         cudaGetErrorName(status), cudaGetErrorString(status));
}

}  // namespace weft::cuda
