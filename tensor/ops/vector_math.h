#pragma once

// Elementary functions for kernels, written without branches, tables or library calls so that the
// compiler vectorises any plain loop that calls them. The float versions stay within 2.5 units in
// the last place of the true value over the whole range of float, subnormal results included, and
// treat infinity, NaN and signed zero like <cmath>; tests/tensor/vector_math_test.cpp checks every
// function densely. The double versions call <cmath>. Coefficients are minimax fits of the function
// named beside them, made for these ranges.
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace weft {
namespace detail {

inline constexpr float kInfinity = std::numeric_limits<float>::infinity();
inline constexpr float kLn2High = 0x1.62e4p-1f;    // 15 bits: times a small integer is exact
inline constexpr float kLn2Low = 0x1.7f7d1cp-20f;  // ln 2 - kLn2High
inline constexpr float kLog2E = 0x1.715476p+0f;

/// 2^n for n in [-126, 127].
inline float power_of_two(int32_t n) {
  return std::bit_cast<float>(static_cast<uint32_t>(n + 127) << 23);
}

/// x = n ln 2 + rest with |rest| <= ln 2 / 2, for |x| < 2^15.
struct Reduced {
  float rest;
  int32_t n;
};
inline Reduced reduce_by_ln2(float x) {
  // Adding 1.5 * 2^23 leaves the nearest integer in the low bits of the sum.
  constexpr float kRound = 0x1.8p23f;
  const float sum = x * kLog2E + kRound;
  const float n = sum - kRound;
  return {(x - n * kLn2High) - n * kLn2Low,
          static_cast<int32_t>(std::bit_cast<uint32_t>(sum) - std::bit_cast<uint32_t>(kRound))};
}

}  // namespace detail

/// e^x.
inline float vexp(float x) {
  // Beyond these the result is infinity or zero anyway. NaN passes both selects.
  x = x > 89.0f ? 89.0f : x;
  x = x < -104.0f ? -104.0f : x;
  const auto [r, n] = detail::reduce_by_ln2(x);
  float q = 0x1.6a2414p-10f;  // (e^r - 1 - r) / r^2
  q = q * r + 0x1.1239f6p-7f;
  q = q * r + 0x1.5558f2p-5f;
  q = q * r + 0x1.555492p-3f;
  q = q * r + 0x1.fffffcp-2f;
  const float p = 1.0f + (r + r * r * q);
  // 2^n alone may be out of range where the result is not.
  const int32_t half = n >> 1;
  return p * detail::power_of_two(half) * detail::power_of_two(n - half);
}
inline double vexp(double x) {
  return std::exp(x);
}

namespace detail {
/// e^x - 1 for x in [-20, 89].
inline float expm1_in_range(float x) {
  const auto [r, n] = reduce_by_ln2(x);
  float q = 0x1.a032cp-13f;  // (e^r - 1 - r) / r^2
  q = q * r + 0x1.6d720cp-10f;
  q = q * r + 0x1.11118ap-7f;
  q = q * r + 0x1.5554b2p-5f;
  q = q * r + 0x1.555554p-3f;
  q = q * r + 0.5f;
  const float p = r + r * r * q;
  // Half of the result first: 2^n itself overflows for the largest x.
  const float half_scale = power_of_two(n - 1);
  return 2.0f * (half_scale * p + (half_scale - 0.5f));
}
}  // namespace detail

/// e^x - 1, accurate near zero.
inline float vexpm1(float x) {
  float bounded = x > 89.0f ? 89.0f : x;
  bounded = bounded < -20.0f ? -20.0f : bounded;
  // The halves within would lose the last bit of subnormal numbers.
  return std::fabs(x) < 0x1p-25f ? x : detail::expm1_in_range(bounded);
}
inline double vexpm1(double x) {
  return std::expm1(x);
}

/// Natural logarithm; -infinity at zero, NaN below.
inline float vlog(float x) {
  const bool subnormal = x < 0x1p-126f;
  const uint32_t bits = std::bit_cast<uint32_t>(subnormal ? x * 0x1p23f : x);
  // x = 2^k m with m in [sqrt(1/2), sqrt(2)); 0x3f3504f3 is sqrt(1/2).
  const int32_t k = static_cast<int32_t>(bits - 0x3f3504f3u) >> 23;
  const float f = std::bit_cast<float>(bits - (static_cast<uint32_t>(k) << 23)) - 1.0f;
  const float exponent = static_cast<float>(k) - (subnormal ? 23.0f : 0.0f);
  float q = 0x1.1457a8p-4f;  // (log(1 + f) - f + f^2 / 2) / f^3
  q = q * f - 0x1.de3c16p-4f;
  q = q * f + 0x1.e6f06ap-4f;
  q = q * f - 0x1.fc2208p-4f;
  q = q * f + 0x1.233768p-3f;
  q = q * f - 0x1.555c4ep-3f;
  q = q * f + 0x1.99a4b6p-3f;
  q = q * f - 0x1.000006p-2f;
  q = q * f + 0x1.555548p-2f;
  const float square = f * f;
  const float tail = (f * square * q + exponent * detail::kLn2Low) - 0.5f * square;
  float result = exponent * detail::kLn2High + (f + tail);
  result = x == detail::kInfinity ? x : result;
  const float outside = x == 0.0f ? -detail::kInfinity : std::numeric_limits<float>::quiet_NaN();
  return x > 0.0f ? result : outside;
}
inline double vlog(double x) {
  return std::log(x);
}

/// log(1 + x), accurate near zero.
inline float vlog1p(float x) {
  const float u = 1.0f + x;
  // What rounding 1 + x lost, to first order.
  const float correction = (x - (u - 1.0f)) / u;
  const float log_u = vlog(u);
  const float result = log_u + correction;
  const bool exact = u == 0.0f || u == detail::kInfinity;
  return x == 0.0f ? x : exact ? log_u : result;
}
inline double vlog1p(double x) {
  return std::log1p(x);
}

/// Hyperbolic tangent.
inline float vtanh(float x) {
  const float magnitude = std::fabs(x);
  const float bounded = magnitude > 10.0f ? 10.0f : magnitude;  // tanh(10) rounds to 1
  const float e = detail::expm1_in_range(2.0f * bounded);
  return std::copysign(e / (e + 2.0f), x);
}
inline double vtanh(double x) {
  return std::tanh(x);
}

/// 1 / (1 + e^-x), accurate in both tails.
inline float vsigmoid(float x) {
  const float e = vexp(x > 0.0f ? -x : x);
  return (x > 0.0f ? 1.0f : e) / (1.0f + e);
}
inline double vsigmoid(double x) {
  const double e = std::exp(-std::abs(x));
  return (x > 0.0 ? 1.0 : e) / (1.0 + e);
}

/// Error function 2/sqrt(pi) * integral of e^(-t^2) from 0 to x.
inline float verf(float x) {
  const float magnitude = std::fabs(x);
  const float t = x * x;
  float near = 0x1.496a1ep-14f;  // erf(x) / x - 1 in x^2, for |x| <= 1
  near = near * t - 0x1.a3f6f8p-11f;
  near = near * t + 0x1.5405bp-8f;
  near = near * t - 0x1.b7f90cp-6f;
  near = near * t + 0x1.ce2cf8p-4f;
  near = near * t - 0x1.81273ep-2f;
  near = near * t + 0x1.06eba8p-3f;
  near = magnitude + magnitude * near;
  const float a = magnitude > 4.0f ? 4.0f : magnitude;  // erf(4) rounds to 1
  float far = 0x1.86de0cp-13f;                          // log(1 - erf(a)), for 1 <= a <= 4
  far = far * a - 0x1.825b48p-9f;
  far = far * a + 0x1.65cb9ep-6f;
  far = far * a - 0x1.a65356p-4f;
  far = far * a - 0x1.46bae8p-1f;
  far = far * a - 0x1.2088ecp+0f;
  far = far * a - 0x1.661a16p-12f;
  far = 1.0f - vexp(far);
  const float result = magnitude <= 1.0f ? near : far;
  return std::copysign(result, x);
}
inline double verf(double x) {
  return std::erf(x);
}

}  // namespace weft
