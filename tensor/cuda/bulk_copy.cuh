#pragma once

// Copies of whole rows from global to shared memory that one thread starts and a barrier in shared
// memory waits for, from compute capability 9.0 on ("mbarrier" and "cp.async.bulk" of the PTX ISA).
#include <cstdint>

namespace weft::cuda {

/// A barrier in shared memory. It goes through phases, each of which ends when as many arrivals and
/// bytes have come as it expects; who waits names the parity of the phase that has to end.
struct alignas(8) TransferBarrier {
  uint64_t state;
};

__device__ __forceinline__ uint32_t shared_address(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

__device__ __forceinline__ void init_barrier(TransferBarrier& barrier, unsigned arrivals) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(&barrier)),
               "r"(arrivals)
               : "memory");
#endif
}

/// Between init_barrier() and the __syncthreads() before the first use.
__device__ __forceinline__ void publish_barriers() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}

__device__ __forceinline__ void arrive(TransferBarrier& barrier) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(&barrier))
               : "memory");
#endif
}

/// Arrives, and lets the phase wait for so many bytes beside.
__device__ __forceinline__ void arrive_expecting(TransferBarrier& barrier, unsigned bytes) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(&barrier)),
      "r"(bytes)
      : "memory");
#endif
}

/// Returns when the phase of this parity is over.
__device__ __forceinline__ void wait(TransferBarrier& barrier, unsigned parity) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  unsigned done = 0;
  while (done == 0) {
    asm volatile(
        "{\n"
        ".reg .pred over;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 over, [%1], %2;\n"
        "selp.u32 %0, 1, 0, over;\n"
        "}"
        : "=r"(done)
        : "r"(shared_address(&barrier)), "r"(parity)
        : "memory");
  }
#endif
}

/// What is read once should not push anything else out of the second-level cache.
__device__ __forceinline__ uint64_t read_once_policy() {
  uint64_t policy = 0;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm("createpolicy.fractional.L2::evict_first.b64 %0;" : "=l"(policy));
#endif
  return policy;
}

/// Starts a copy of `bytes`, whose arrival `barrier` counts. Addresses and bytes are multiples of
/// 16; nothing may write `from` while the kernel runs.
__device__ __forceinline__ void copy_bulk(void* shared, const void* from, unsigned bytes,
                                          TransferBarrier& barrier, uint64_t policy) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], "
      "[%1], %2, [%3], %4;" ::"r"(shared_address(shared)),
      "l"(__cvta_generic_to_global(from)), "r"(bytes), "r"(shared_address(&barrier)), "l"(policy)
      : "memory");
#endif
}

}  // namespace weft::cuda
