#include "cuda/launch_check.h"

#include <cstdlib>
#include <string_view>

#include "weft/tensor/check.h"

namespace weft::cuda {

bool waits_for_kernels() {
  static const bool waits = [] {
    const char* value = std::getenv("WEFT_CUDA_SYNC");
    const std::string_view text = value == nullptr ? "0" : value;
    WEFT_CHECK(text == "0" || text == "1" || text.empty(), ConfigError,
               "WEFT_CUDA_SYNC: '{}' is unknown; allowed are 0 and 1", text);
    return text == "1";
  }();
  return waits;
}

void throw_launch_error(cudaError_t status, const char* op, Device device, const LaunchSize& size) {
  throw_error<CudaError>(
      "{}: kernel of {}x{}x{} blocks of {}x{}x{} threads and {} bytes of shared memory failed on "
      "{} with {} ({}){}",
      op, size.grid[0], size.grid[1], size.grid[2], size.block[0], size.block[1], size.block[2],
      size.shared_bytes, device, cudaGetErrorName(status), cudaGetErrorString(status),
      waits_for_kernels() ? ""
                          : "; an earlier kernel may be the cause, which WEFT_CUDA_SYNC=1 names");
}

}  // namespace weft::cuda
