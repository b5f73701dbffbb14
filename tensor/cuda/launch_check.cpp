#include "cuda/launch_check.h"

#include <cstdlib>
#include <string_view>

#include "weft/tensor/check.h"

namespace weft::cuda {
namespace {

/// A variable of the environment that is 0 or 1.
bool flag(const char* name, bool fallback) {
  const char* const value = std::getenv(name);
  if (value == nullptr || *value == 0) return fallback;
  const std::string_view text = value;
  WEFT_CHECK(text == "0" || text == "1", ConfigError, "{}: '{}' is unknown; allowed are 0 and 1",
             name, text);
  return text == "1";
}

}  // namespace

bool waits_for_kernels() {
  static const bool waits = flag("WEFT_CUDA_SYNC", false);
  return waits;
}

bool may_overlap_kernels() {
  static const bool may = flag("WEFT_CUDA_OVERLAP", false);
  return may;
}

bool may_decode_by_program() {
  static const bool may = flag("WEFT_DECODE_PROGRAM", true);
  return may;
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
