#pragma once

// Packs to values and back, two elements of a half type at an instruction where there is one.
#include <cstring>

#include "cuda/element.cuh"

namespace weft::cuda {

/// The elements as the type they are computed in.
template <class T, int kWidth>
__device__ __forceinline__ void unpack(const Pack<T, kWidth>& pack,
                                       computed_t<T> (&values)[kWidth]) {
  if constexpr (std::is_same_v<T, bf16> && kWidth % 2 == 0) {
    // Element by element the compiler would take the words apart first.
    uint32_t words[kWidth / 2];
    memcpy(words, &pack, sizeof words);
#pragma unroll
    for (int i = 0; i < kWidth / 2; ++i) {
      values[2 * i] = __uint_as_float(words[i] << 16);
      values[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
    }
  } else {
#pragma unroll
    for (int k = 0; k < kWidth; ++k) values[k] = element_as<computed_t<T>>(pack.values[k]);
  }
}

/// The inverse, rounded to nearest even.
template <class T, int kWidth>
__device__ __forceinline__ Pack<T, kWidth> packed(const computed_t<T> (&values)[kWidth]) {
  Pack<T, kWidth> pack;
  if constexpr ((std::is_same_v<T, bf16> || std::is_same_v<T, f16>)&&kWidth % 2 == 0) {
    uint32_t words[kWidth / 2];
#pragma unroll
    for (int i = 0; i < kWidth / 2; ++i) {
      if constexpr (std::is_same_v<T, bf16>) {
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;"
            : "=r"(words[i])
            : "f"(values[2 * i + 1]), "f"(values[2 * i]));
      } else {
        asm("cvt.rn.f16x2.f32 %0, %1, %2;"
            : "=r"(words[i])
            : "f"(values[2 * i + 1]), "f"(values[2 * i]));
      }
    }
    memcpy(&pack, words, sizeof pack);
  } else {
#pragma unroll
    for (int k = 0; k < kWidth; ++k) pack.values[k] = element_as<T>(values[k]);
  }
  return pack;
}

}  // namespace weft::cuda
