#pragma once

// Tensor-core products of few rows of x with a weight of many.
#include <cstdint>
#include <type_traits>

#include "weft/tensor/dtype.h"

namespace weft::cuda {

/// d += a b for the 16 x 16 a with rows 8 to 15 zero, and the 16 x 8 b, of bf16 or f16: x in the
/// first operand.
template <class T>
__device__ __forceinline__ void multiply_add(float (&d)[4], uint32_t a0, uint32_t a2, uint32_t b0,
                                             uint32_t b1) {
  if constexpr (std::is_same_v<T, bf16>) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %5}, {%7, %8}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a0), "r"(0u), "r"(a2), "r"(b0), "r"(b1));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %5}, {%7, %8}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a0), "r"(0u), "r"(a2), "r"(b0), "r"(b1));
  }
}

/// Products of eight rows of a weight with up to four rows of x, from 16 bytes as they lie in
/// memory: `weights` are eight columns of row lane / 4 of the weight, other columns for each lane
/// % 4. The instruction takes the second and the last pair of columns for rows of their own, eight
/// below, and `x` gives them rows of their own: of the same eight columns of row lane / 8 of x the
/// first and the third pair where lane / 4 is even, else the second and the last. The product of
/// row lane / 4 of the weight and row lane % 4 of x is then d[0] + d[3].
template <class T>
__device__ __forceinline__ void multiply_add_weights(float (&d)[4], const uint4& weights,
                                                     const uint2& x) {
  if constexpr (std::is_same_v<T, bf16>) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(weights.x), "r"(weights.y), "r"(weights.z), "r"(weights.w), "r"(x.x), "r"(x.y));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(weights.x), "r"(weights.y), "r"(weights.z), "r"(weights.w), "r"(x.x), "r"(x.y));
  }
}

}  // namespace weft::cuda
