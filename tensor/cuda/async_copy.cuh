#pragma once

// Copies from global to shared memory that run beside the thread's other work.
#include <cstdint>

namespace weft::cuda {

/// Copies 16 bytes past the cache of the multiprocessor; both addresses are aligned to them.
__device__ __forceinline__ void copy_pack_async(void* shared, const void* from) {
  const auto to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}

/// For copies of what will not be read again: the second-level cache lets it go first.
__device__ __forceinline__ uint64_t policy_of_last_reading() {
  uint64_t policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}
__device__ __forceinline__ void copy_pack_async(void* shared, const void* from, uint64_t policy) {
  const auto to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
               "l"(policy)
               : "memory");
}

/// Ends a group of this thread's copies.
__device__ __forceinline__ void end_copy_group() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

/// Returns when all but the last kLeft groups are done; this thread can read what they copied.
template <int kLeft>
__device__ __forceinline__ void wait_for_copy_groups() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
}

}  // namespace weft::cuda
