#pragma once

// Runs of elements from one type to another: what copies, and elementwise kernels that compute half
// types in float, have in common. Plain loops over restrict pointers, for the compiler to
// vectorise.
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#ifdef __F16C__
#include <immintrin.h>
#endif

#include "weft/tensor/dtype.h"

namespace weft {

/// One element to another type. Anything but zero is true; floating values outside the range of an
/// integer type go to its nearest end and NaN to zero.
template <class To, class From>
inline To convert(From value) {
  if constexpr (std::is_same_v<To, From>) {
    return value;
  } else if constexpr (std::is_same_v<From, bf16> || std::is_same_v<From, f16>) {
    return convert<To>(static_cast<float>(value));
  } else if constexpr (std::is_same_v<To, bf16> || std::is_same_v<To, f16>) {
    return To(static_cast<float>(value));
  } else if constexpr (std::is_same_v<To, bool>) {
    return value != From{0};
  } else if constexpr (std::is_floating_point_v<From> && std::is_integral_v<To>) {
    // 2^63 is the first double beyond int64_t; the ends of the narrower types are exact.
    constexpr double kLowest = static_cast<double>(std::numeric_limits<To>::lowest());
    constexpr double kHighest = static_cast<double>(std::numeric_limits<To>::max());
    const auto wide = static_cast<double>(value);
    if (wide >= kHighest) return std::numeric_limits<To>::max();
    if (wide <= kLowest) return std::numeric_limits<To>::lowest();
    return wide != wide ? To{0} : static_cast<To>(wide);
  } else {
    return static_cast<To>(value);
  }
}

template <class To, class From>
inline void convert_run(const From* __restrict from, To* __restrict to, int64_t count) {
  if constexpr (std::is_same_v<To, From>) {
    std::memcpy(to, from, static_cast<size_t>(count) * sizeof(To));
  } else {
    for (int64_t i = 0; i < count; ++i) to[i] = convert<To>(from[i]);
  }
}

#ifdef __F16C__
template <>
inline void convert_run(const f16* __restrict from, float* __restrict to, int64_t count) {
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i));
    _mm256_storeu_ps(to + i, _mm256_cvtph_ps(bits));
  }
  for (; i < count; ++i) to[i] = from[i];
}

template <>
inline void convert_run(const float* __restrict from, f16* __restrict to, int64_t count) {
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const __m128i bits = _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i), bits);
  }
  for (; i < count; ++i) to[i] = f16(from[i]);
}
#endif

}  // namespace weft
