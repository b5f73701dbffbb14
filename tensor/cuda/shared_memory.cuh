#pragma once

// Dynamic shared memory beside what a kernel declares.
#include <algorithm>

#include "cuda/launch.cuh"

namespace weft::cuda {

/// Lets `kernel` have so many bytes of dynamic shared memory beside its own, which together may be
/// more than need not be asked for where these alone, of which launch() knows, are not. Never asks
/// for less than launch() allows without asking, for the sake of graphs captured before.
template <class Kernel>
void allow_shared_bytes(Kernel* kernel, size_t bytes, Stream stream) {
  const DeviceGuard guard(stream.device().index);
  WEFT_CUDA_CHECK(cudaFuncSetAttribute(
      reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
      static_cast<int>(std::max(bytes, detail::kPlainSharedBytes))));
}

}  // namespace weft::cuda
