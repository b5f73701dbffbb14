#pragma once

// Loads that pass by the cache of the multiprocessor.
#include <cstring>

#include "cuda/element.cuh"

namespace weft::cuda {

/// 16 bytes that this kernel reads once, and that nothing writes while it runs.
__device__ __forceinline__ uint4 load_once(const void* from) {
  uint4 value;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "l"(from));
  return value;
}

/// 16 bytes that an earlier kernel, or another block of this one, may have written.
template <class T>
__device__ __forceinline__ Pack<T, 16 / sizeof(T)> load_fresh_pack(const T* from) {
  const uint4 bits = __ldcg(reinterpret_cast<const uint4*>(from));
  Pack<T, 16 / sizeof(T)> pack;
  memcpy(&pack, &bits, sizeof pack);
  return pack;
}

/// One element of the same kind.
template <class T>
__device__ __forceinline__ T load_fresh(const T* from) {
  T value;
  if constexpr (sizeof(T) == 2) {
    const unsigned short bits = __ldcg(reinterpret_cast<const unsigned short*>(from));
    memcpy(&value, &bits, sizeof value);
  } else if constexpr (sizeof(T) == 8) {
    const unsigned long long bits = __ldcg(reinterpret_cast<const unsigned long long*>(from));
    memcpy(&value, &bits, sizeof value);
  } else {
    static_assert(sizeof(T) == 4);
    const unsigned bits = __ldcg(reinterpret_cast<const unsigned*>(from));
    memcpy(&value, &bits, sizeof value);
  }
  return value;
}

}  // namespace weft::cuda
