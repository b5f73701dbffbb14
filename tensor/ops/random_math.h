#pragma once

// From random words to numbers. Every operation here is rounded on its own or is an explicit fused
// multiply-add, so that all compilers and devices give the same bits.
#include <bit>
#include <cmath>
#include <cstdint>

#include "ops/host_device.h"

namespace weft {

/// In [0, 1), from the upper 24 bits of a word.
WEFT_HOST_DEVICE inline float unit_float(uint32_t word) {
  return static_cast<float>(static_cast<int32_t>(word >> 8)) * 0x1p-24f;
}

/// Whether unit_float(word) < p, without rounding p.
WEFT_HOST_DEVICE inline bool falls_below(uint32_t word, uint32_t threshold) {
  return (word >> 8) < threshold;
}
/// The threshold of falls_below() for a probability in [0, 1].
inline uint32_t threshold_of(double p) {
  return static_cast<uint32_t>(std::ceil(p * 0x1p24));
}

/// ln(1 + f) for 1 + f in [sqrt(1/2), sqrt(2)).
WEFT_HOST_DEVICE inline float log_near_one(float f) {
  float q = std::fma(0x1.1457a8p-4f, f, -0x1.de3c16p-4f);  // (ln(1 + f) - f + f^2 / 2) / f^3
  q = std::fma(q, f, 0x1.e6f06ap-4f);
  q = std::fma(q, f, -0x1.fc2208p-4f);
  q = std::fma(q, f, 0x1.233768p-3f);
  q = std::fma(q, f, -0x1.555c4ep-3f);
  q = std::fma(q, f, 0x1.99a4b6p-3f);
  q = std::fma(q, f, -0x1.000006p-2f);
  q = std::fma(q, f, 0x1.555548p-2f);
  q = std::fma(q, f, -0.5f);
  return std::fma(f * f, q, f);
}

/// Of an angle in [-pi/4, pi/4).
WEFT_HOST_DEVICE inline void sine_and_cosine(float a, float& sine, float& cosine) {
  const float t = a * a;
  float s = std::fma(-0x1.994eb4p-13f, t, 0x1.11076p-7f);  // (sin(a) / a - 1) / a^2
  s = std::fma(s, t, -0x1.555546p-3f);
  sine = std::fma(a * t, s, a);
  float c = std::fma(0x1.99343p-16f, t, -0x1.6c087ep-10f);  // (cos(a) - 1) / a^2
  c = std::fma(c, t, 0x1.55553ep-5f);
  c = std::fma(c, t, -0.5f);
  cosine = std::fma(c, t, 1.0f);
}

/// Two independent standard normal numbers from two words, by Box and Muller.
WEFT_HOST_DEVICE inline void normal_pair(uint32_t word0, uint32_t word1, float& z0, float& z1) {
  // -2 ln(v) for v in (0, 1], of 24 bits; v = 2^k m with m in [sqrt(1/2), sqrt(2)).
  const float v = static_cast<float>(static_cast<int32_t>((word0 >> 8) + 1)) * 0x1p-24f;
  const uint32_t bits = std::bit_cast<uint32_t>(v);
  const int32_t k = static_cast<int32_t>(bits - 0x3f3504f3u) >> 23;
  const float f = std::bit_cast<float>(bits - (static_cast<uint32_t>(k) << 23)) - 1.0f;
  const float log_v = std::fma(static_cast<float>(k), 0x1.62e43p-1f, log_near_one(f));
  const float r = std::sqrt(-2.0f * log_v);

  // A turn of 2^24 steps: the nearest quarter, and the rest in [-pi/4, pi/4).
  const uint32_t angle = word1 >> 8;
  const uint32_t quarter = (angle + (1u << 21)) >> 22;
  const auto rest = static_cast<int32_t>(angle - (quarter << 22));
  const float a = static_cast<float>(rest) * 0x1.921fb6p-22f;  // pi / 2 * 2^-22
  float sine, cosine;
  sine_and_cosine(a, sine, cosine);
  const bool swapped = (quarter & 1) != 0;
  const uint32_t cosine_sign = ((quarter + 1) & 2) << 30;
  const uint32_t sine_sign = (quarter & 2) << 30;
  const float x =
      std::bit_cast<float>(std::bit_cast<uint32_t>(swapped ? sine : cosine) ^ cosine_sign);
  const float y =
      std::bit_cast<float>(std::bit_cast<uint32_t>(swapped ? cosine : sine) ^ sine_sign);
  z0 = r * x;
  z1 = r * y;
}

/// sqrt(x) for zero and what is not tiny.
WEFT_HOST_DEVICE inline float root_of_normal(float x) {
#ifdef __CUDA_ARCH__
  // What sqrt() does where x is in this range, without the branch for all others, which would keep
  // the steps of several numbers from being mixed. The bound is for zero, whose inverse is
  // infinite.
  float inverse;
  asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(x));
  inverse = std::fmin(std::fabs(inverse), 0x1p20f);
  const float root = x * inverse;
  return std::fma(std::fma(-root, root, x), 0.5f * inverse, root);
#else
  return std::sqrt(x);
#endif
}

/// 2 ln(1 + g / 2), with the steps of log_near_one(g / 2).
WEFT_HOST_DEVICE inline float twice_log_near_one(float g) {
  float q = std::fma(0x1.1457a8p-14f, g, -0x1.de3c16p-13f);
  q = std::fma(q, g, 0x1.e6f06ap-12f);
  q = std::fma(q, g, -0x1.fc2208p-11f);
  q = std::fma(q, g, 0x1.233768p-9f);
  q = std::fma(q, g, -0x1.555c4ep-8f);
  q = std::fma(q, g, 0x1.99a4b6p-7f);
  q = std::fma(q, g, -0x1.000006p-5f);
  q = std::fma(q, g, 0x1.555548p-4f);
  q = std::fma(q, g, -0.25f);
  return std::fma(g * g, q, g);
}

WEFT_HOST_DEVICE inline bool has_bit(uint32_t word, uint32_t bit) {
#ifdef __CUDA_ARCH__
  // Of what says the same in C++, the compiler makes a shift, a mask and a comparison.
  asm("and.b32 %0, %0, %1;" : "+r"(word) : "r"(bit));
  return word != 0;
#else
  return (word & bit) != 0;
#endif
}

/// normal_pair(), to the bit, in fewer instructions, of the integer ones above all, of which a GPU
/// runs half as many at a time as of floating ones: exponents and angles stay where they are in
/// their words, and powers of two move into constants.
WEFT_HOST_DEVICE inline void lean_normal_pair(uint32_t word0, uint32_t word1, float& z0,
                                              float& z1) {
  const float v = static_cast<float>(static_cast<int32_t>((word0 >> 8) + 1));  // times 2^24
  const uint32_t bits = std::bit_cast<uint32_t>(v);
  constexpr uint32_t kScale = 24u << 23;
  const uint32_t exponent = (bits - (0x3f3504f3u + kScale)) & 0xff800000u;  // of v / sqrt(1/2)
  const float k = static_cast<float>(static_cast<int32_t>(exponent));       // times 2^23
  const float g = std::fma(std::bit_cast<float>(bits - exponent - kScale), 2.0f, -2.0f);
  const float twice_log = std::fma(k, 0x1.62e43p-23f, twice_log_near_one(g));
  const float r = root_of_normal(-twice_log);

  // The rest of the angle beside its nearest quarter, times 2^10.
  const auto rest = static_cast<int32_t>((word1 << 2) & 0xfffffc00u);
  const float a = static_cast<float>(rest) * 0x1.921fb6p-32f;
  float sine, cosine;
  sine_and_cosine(a, sine, cosine);
  // The upper bit turns by a half, the one below by a quarter.
  const uint32_t quarter = word1 + (1u << 29);
  const bool swapped = has_bit(quarter, 1u << 30);
  const float turned = std::bit_cast<float>(std::bit_cast<uint32_t>(r) ^ (quarter & (1u << 31)));
  z0 = turned * (swapped ? -sine : cosine);
  z1 = turned * (swapped ? cosine : sine);
}

}  // namespace weft
