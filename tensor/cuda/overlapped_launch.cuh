#pragma once

// Kernels that start while the one before them on the stream still runs (programmatic dependent
// launch, from compute capability 9.0 on): what does not depend on earlier kernels, above all the
// first loads of weights, is done by the time they end. Elsewhere kernels run one after another.
//
// Every block of such a kernel calls wait_for_earlier_kernels() before it reads what an earlier
// kernel of the stream may have written, and before it writes anything.
#include "cuda/launch.cuh"
#include "cuda/launch_check.h"
#include "cuda/probe.h"

namespace weft::cuda {

/// Returns when all earlier kernels of the stream are done and what they wrote can be read.
__device__ __forceinline__ void wait_for_earlier_kernels() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/// Lets the next kernel of the stream start as soon as all blocks of this one have been here.
__device__ __forceinline__ void let_next_kernel_start() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/// launch(), where `overlap` with a start that need not wait for earlier kernels.
template <class... Parameters, class... Arguments>
void launch_overlapped(const char* op, Stream stream, const LaunchShape& shape, bool overlap,
                       void (*kernel)(Parameters...), Arguments&&... arguments) {
  if (!overlap || !may_overlap_kernels() || code_capability(stream.device()) < 90) {
    launch(op, stream, shape, kernel, std::forward<Arguments>(arguments)...);
    return;
  }
  if (shape.grid.x == 0 || shape.grid.y == 0 || shape.grid.z == 0) return;
  const DeviceGuard guard(stream.device().index);
  // Kernels whose shares of a multiprocessor's memory differ would have to wait for each other.
  WEFT_CUDA_CHECK(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                       cudaFuncAttributePreferredSharedMemoryCarveout,
                                       cudaSharedmemCarveoutMaxShared));
  if (shape.shared_bytes > detail::kPlainSharedBytes) {
    WEFT_CUDA_CHECK(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                         cudaFuncAttributeMaxDynamicSharedMemorySize,
                                         static_cast<int>(shape.shared_bytes)));
  }
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = native(stream);
  config.attrs = &attribute;
  config.numAttrs = 1;
  // check_launch() finds what this returns as the runtime's last error.
  static_cast<void>(cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...));
  detail::check_launch(op, stream, shape);
}

}  // namespace weft::cuda
