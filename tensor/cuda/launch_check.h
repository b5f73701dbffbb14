#pragma once

#include <array>

#include <cuda_runtime_api.h>

#include "weft/tensor/device.h"

namespace weft::cuda {

/// WEFT_CUDA_SYNC=1 in the environment: every launch waits for its kernel.
bool waits_for_kernels();

struct LaunchSize {
  std::array<unsigned, 3> grid;
  std::array<unsigned, 3> block;
  size_t shared_bytes;
};
[[noreturn]] void throw_launch_error(cudaError_t status, const char* op, Device device,
                                     const LaunchSize& size);

}  // namespace weft::cuda
