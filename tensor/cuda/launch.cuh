#pragma once

// How every kernel is started. For .cu files: free of {fmt}, which nvcc does not compile.
#include <cstdint>
#include <utility>

#include "cuda/device_context.h"

namespace weft::cuda {

/// Blocks of a launch, threads of a block, and bytes of dynamic shared memory.
struct LaunchShape {
  dim3 grid;
  dim3 block;
  size_t shared_bytes = 0;
};

namespace detail {
/// Shared memory beyond this must be asked for.
inline constexpr size_t kPlainSharedBytes = size_t{48} << 10;

/// Throws CudaError, naming the op, where the last launch failed; with WEFT_CUDA_SYNC=1 in the
/// environment waits for the kernel first, so that the op that fails is the one named.
void check_launch(const char* op, Stream stream, const LaunchShape& shape);
}  // namespace detail

/// Starts `kernel` on the stream; `op` names the caller in errors. A launch of no blocks does
/// nothing.
template <class... Parameters, class... Arguments>
void launch(const char* op, Stream stream, const LaunchShape& shape, void (*kernel)(Parameters...),
            Arguments&&... arguments) {
  if (shape.grid.x == 0 || shape.grid.y == 0 || shape.grid.z == 0) return;
  const DeviceGuard guard(stream.device().index);
  if (shape.shared_bytes > detail::kPlainSharedBytes) {
    WEFT_CUDA_CHECK(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                         cudaFuncAttributeMaxDynamicSharedMemorySize,
                                         static_cast<int>(shape.shared_bytes)));
  }
  kernel<<<shape.grid, shape.block, shape.shared_bytes, native(stream)>>>(
      std::forward<Arguments>(arguments)...);
  detail::check_launch(op, stream, shape);
}

/// Blocks of `per_block` that cover `count`.
inline unsigned blocks_for(int64_t count, int64_t per_block) {
  return static_cast<unsigned>((count + per_block - 1) / per_block);
}

/// Notes bad input for the host, which names the first alone; see fault.h. `op` is a literal of the
/// host that came with the launch: it cannot read those of device code.
__device__ inline void report_fault(Fault* fault, FaultKind kind, const char* op, int64_t value = 0,
                                    int64_t limit = 0) {
  if (atomicCAS(&fault->kind, static_cast<unsigned>(FaultKind::none),
                static_cast<unsigned>(kind)) != static_cast<unsigned>(FaultKind::none))
    return;
  fault->op = op;
  fault->value = value;
  fault->limit = limit;
  __threadfence_system();
}

}  // namespace weft::cuda
