#pragma once

// Clusters of blocks that run together and read each other's shared memory, from compute capability
// 9.0 on ("barrier.cluster" and "mapa" of the PTX ISA).
#include <cstdint>

namespace weft::cuda {

/// What this block has written to shared memory so far can be read by others past their wait.
__device__ __forceinline__ void arrive_in_cluster() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release;" ::: "memory");
#endif
}

/// Returns when all threads of the cluster have arrived.
__device__ __forceinline__ void wait_for_cluster() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
#endif
}

/// What the block number `block` of the cluster has at the place of `own` in its shared memory.
__device__ __forceinline__ float2 load_from_block(const float2* own, unsigned block) {
  float2 value{};
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile(
      "{\n"
      ".reg .b32 there;\n"
      "mapa.shared::cluster.u32 there, %2, %3;\n"
      "ld.shared::cluster.v2.f32 {%0, %1}, [there];\n"
      "}"
      : "=f"(value.x), "=f"(value.y)
      : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(own))), "r"(block)
      : "memory");
#endif
  return value;
}

}  // namespace weft::cuda
