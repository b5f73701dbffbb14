#pragma once

// Values that blocks of a running kernel hand to each other through global memory. Four bytes and a
// mark are written and read at once, so that who finds the mark has the value: neither fences nor
// barriers are needed, and waiting costs no more than reading. A mark must not have been used at
// the place before.
#include <cstdint>

namespace weft::cuda {

/// Four bytes in the lower half, their mark in the upper one.
using Marked = unsigned long long;

__device__ __forceinline__ uint32_t bits_of(Marked marked) {
  return static_cast<uint32_t>(marked);
}

__device__ __forceinline__ bool has_mark(Marked marked, uint32_t mark) {
  return static_cast<uint32_t>(marked >> 32) == mark;
}

__device__ __forceinline__ void store_marked(Marked* to, uint32_t bits, uint32_t mark) {
  const Marked marked = static_cast<Marked>(mark) << 32 | bits;
  asm volatile("st.relaxed.gpu.global.b64 [%0], %1;" ::"l"(to), "l"(marked) : "memory");
}

/// What is there now, whether it has the mark or not.
__device__ __forceinline__ Marked peek_marked(const Marked* from) {
  Marked marked;
  asm volatile("ld.relaxed.gpu.global.b64 %0, [%1];" : "=l"(marked) : "l"(from) : "memory");
  return marked;
}

struct MarkedTwo {
  Marked first, second;
};

/// Two that lie beside each other, the first at a multiple of 16 bytes.
__device__ __forceinline__ MarkedTwo peek_two_marked(const Marked* from) {
  MarkedTwo two;
  asm volatile("ld.relaxed.gpu.global.v2.b64 {%0, %1}, [%2];"
               : "=l"(two.first), "=l"(two.second)
               : "l"(from)
               : "memory");
  return two;
}

/// Waits for the mark. `found` is what peek_marked() gave before.
__device__ __forceinline__ uint32_t await_marked(const Marked* from, Marked found, uint32_t mark) {
  while (!has_mark(found, mark)) found = peek_marked(from);
  return bits_of(found);
}

__device__ __forceinline__ uint2 await_two_marked(const Marked* from, MarkedTwo found,
                                                  uint32_t mark) {
  while (!has_mark(found.first, mark) || !has_mark(found.second, mark))
    found = peek_two_marked(from);
  return {bits_of(found.first), bits_of(found.second)};
}

}  // namespace weft::cuda
