#pragma once

// Values that blocks of a running kernel hand to each other through global memory. A value and a
// mark are eight bytes that are written and read at once, so that who finds the mark has the value:
// neither fences nor barriers are needed, and waiting costs no more than reading. A mark must not
// have been used at the place before.
#include <cstdint>

namespace weft::cuda {

/// A float in the lower half, its mark in the upper one.
using MarkedValue = unsigned long long;

__device__ __forceinline__ float value_of(MarkedValue marked) {
  return __uint_as_float(static_cast<uint32_t>(marked));
}

__device__ __forceinline__ bool has_mark(MarkedValue marked, uint32_t mark) {
  return static_cast<uint32_t>(marked >> 32) == mark;
}

__device__ __forceinline__ void store_marked(MarkedValue* to, float value, uint32_t mark) {
  const MarkedValue marked = static_cast<MarkedValue>(mark) << 32 | __float_as_uint(value);
  asm volatile("st.relaxed.gpu.global.b64 [%0], %1;" ::"l"(to), "l"(marked) : "memory");
}

/// What is there now, whether it has the mark or not.
__device__ __forceinline__ MarkedValue peek_marked(const MarkedValue* from) {
  MarkedValue marked;
  asm volatile("ld.relaxed.gpu.global.b64 %0, [%1];" : "=l"(marked) : "l"(from) : "memory");
  return marked;
}

struct MarkedPair {
  MarkedValue first, second;
};

/// Two that lie beside each other, the first at a multiple of 16 bytes.
__device__ __forceinline__ MarkedPair peek_marked_pair(const MarkedValue* from) {
  MarkedPair pair;
  asm volatile("ld.relaxed.gpu.global.v2.b64 {%0, %1}, [%2];"
               : "=l"(pair.first), "=l"(pair.second)
               : "l"(from)
               : "memory");
  return pair;
}

/// Waits for the mark. `found` is what peek_marked() gave before.
__device__ __forceinline__ float await_marked(const MarkedValue* from, MarkedValue found,
                                              uint32_t mark) {
  while (!has_mark(found, mark)) found = peek_marked(from);
  return value_of(found);
}

__device__ __forceinline__ float2 await_marked_pair(const MarkedValue* from, MarkedPair found,
                                                    uint32_t mark) {
  while (!has_mark(found.first, mark) || !has_mark(found.second, mark))
    found = peek_marked_pair(from);
  return {value_of(found.first), value_of(found.second)};
}

}  // namespace weft::cuda
