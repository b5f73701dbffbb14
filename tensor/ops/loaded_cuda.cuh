#pragma once

// Packs of elements that wait in registers, several at a time, before they are used.
#include "ops/rows_cuda.cuh"

namespace weft::cuda {

/// kWidth neighbouring elements as they came from memory.
template <class T, int kWidth>
struct Loaded {
  Pack<T, kWidth> pack;

  __device__ __forceinline__ void load(const T* from) { pack = load_pack<kWidth>(from); }
  __device__ __forceinline__ computed_t<T> operator[](int n) const { return widen(pack.values[n]); }
};

/// Pairs of half types stay in one register each until they are used.
template <class T>
requires(sizeof(T) == 2 && !std::is_integral_v<T>) struct Loaded<T, 8> {
  uint4 pairs;

  __device__ __forceinline__ void load(const T* from) {
    pairs = *reinterpret_cast<const uint4*>(from);
  }
  __device__ __forceinline__ float operator[](int n) const {
    const uint32_t pair = n < 2 ? pairs.x : n < 4 ? pairs.y : n < 6 ? pairs.z : pairs.w;
    if constexpr (std::is_same_v<T, bf16>) {
      return __uint_as_float(n % 2 == 0 ? pair << 16 : pair & 0xffff0000u);
    } else {
      T value;
      value.bits = static_cast<uint16_t>(n % 2 == 0 ? pair : pair >> 16);
      return to_float(value);
    }
  }
};

}  // namespace weft::cuda
