#pragma once

#include <bit>
#include <cstdint>
#include <limits>

namespace weft {

/// bfloat16: the upper 16 bits of an IEEE single. Conversion from float rounds to nearest even; NaN
/// stays NaN (quiet).
struct bf16 {
  uint16_t bits = 0;

  bf16() = default;
  explicit constexpr bf16(float value) {
    const uint32_t u = std::bit_cast<uint32_t>(value);
    const uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
    // Written as a select, not a branch, so that loops over it vectorise.
    bits = static_cast<uint16_t>((u & 0x7fffffffu) > 0x7f800000u ? (u >> 16) | 0x40u : rounded);
  }
  constexpr operator float() const {
    return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
  }
  static constexpr bf16 from_bits(uint16_t bits) {
    bf16 h;
    h.bits = bits;
    return h;
  }
};

/// IEEE 754 binary16. Conversion from float rounds to nearest even, overflows to infinity; NaN
/// stays NaN (quiet).
struct f16 {
  uint16_t bits = 0;

  f16() = default;
  explicit constexpr f16(float value) {
    const uint32_t u = std::bit_cast<uint32_t>(value);
    const uint32_t sign = (u >> 16) & 0x8000u;
    const uint32_t magnitude = u & 0x7fffffffu;
    if (magnitude > 0x7f800000u) {
      bits = static_cast<uint16_t>(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu));
    } else if (magnitude >= 0x477ff000u) {  // rounds to 65536 or more
      bits = static_cast<uint16_t>(sign | 0x7c00u);
    } else if (magnitude >= 0x38800000u) {  // normal
      const uint32_t rebased = magnitude - 0x38000000u;
      bits = static_cast<uint16_t>(sign | ((rebased + 0xfffu + ((rebased >> 13) & 1u)) >> 13));
    } else {  // subnormal or zero: adding 0.5 aligns the mantissa, and the FPU rounds to nearest
              // even
      const float aligned = std::bit_cast<float>(magnitude) + 0.5f;
      bits = static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(aligned) - 0x3f000000u));
    }
  }
  constexpr operator float() const {
    const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
    const uint32_t magnitude = bits & 0x7fffu;
    if (magnitude >= 0x7c00u) {  // infinity, NaN
      return std::bit_cast<float>(sign | 0x7f800000u | ((magnitude & 0x3ffu) << 13));
    }
    if (magnitude >= 0x400u) return std::bit_cast<float>(sign | ((magnitude << 13) + 0x38000000u));
    const float value = static_cast<float>(magnitude) * 0x1p-24f;
    return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(value));
  }
  static constexpr f16 from_bits(uint16_t bits) {
    f16 h;
    h.bits = bits;
    return h;
  }
};

}  // namespace weft
