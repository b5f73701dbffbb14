#pragma once

#include <array>

#include <cuda_runtime_api.h>

#include "weft/tensor/device.h"

namespace weft::cuda {

/// WEFT_CUDA_SYNC=1 in the environment: every launch waits for its kernel.
bool waits_for_kernels();
/// With WEFT_CUDA_OVERLAP=1 alone: kernels may start before the one in front of them is done. On an
/// H100 that made decoding steps slower.
bool may_overlap_kernels();
/// Unless WEFT_DECODE_PROGRAM=0: a decoding step may be one kernel.
bool may_decode_by_program();

struct LaunchSize {
  std::array<unsigned, 3> grid;
  std::array<unsigned, 3> block;
  size_t shared_bytes;
};
[[noreturn]] void throw_launch_error(cudaError_t status, const char* op, Device device,
                                     const LaunchSize& size);

}  // namespace weft::cuda
