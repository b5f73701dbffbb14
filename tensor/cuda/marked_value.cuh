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

struct alignas(16) MarkedTwo {
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

__device__ __forceinline__ bool have_mark(const MarkedTwo& two, uint32_t mark) {
  return has_mark(two.first, mark) && has_mark(two.second, mark);
}
__device__ __forceinline__ uint2 bits_of(const MarkedTwo& two) {
  return {bits_of(two.first), bits_of(two.second)};
}

/// Waits for the mark. `found` is what peek_marked() gave before.
__device__ __forceinline__ uint32_t await_marked(const Marked* from, Marked found, uint32_t mark) {
  while (!has_mark(found, mark)) found = peek_marked(from);
  return bits_of(found);
}

// Whoever waits for values at several places looks at all of them again and again: one after the
// other, each would take the way to the second-level cache and back by itself.

/// Returns when both are there.
__device__ __forceinline__ uint2 await_marked(const Marked* first, const Marked* second,
                                              uint32_t mark) {
  Marked found[2];
  do {
    found[0] = peek_marked(first);
    found[1] = peek_marked(second);
  } while (!has_mark(found[0], mark) || !has_mark(found[1], mark));
  return {bits_of(found[0]), bits_of(found[1])};
}

/// Returns when all that are wanted are there, in `found`.
template <int kPlaces>
__device__ __forceinline__ void await_marked(const Marked* const (&from)[kPlaces],
                                             const bool (&wanted)[kPlaces],
                                             MarkedTwo (&found)[kPlaces], uint32_t mark) {
  bool misses = true;
  for (bool again = false; misses; again = true) {
#pragma unroll
    for (int i = 0; i < kPlaces; ++i) {
      if (wanted[i] && !(again && have_mark(found[i], mark))) found[i] = peek_two_marked(from[i]);
    }
    misses = false;
#pragma unroll
    for (int i = 0; i < kPlaces; ++i) misses |= wanted[i] && !have_mark(found[i], mark);
  }
}

}  // namespace weft::cuda
