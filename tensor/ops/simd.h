#pragma once

// Vectors of the widest width that this build targets, for kernels whose sums and maxima have a
// fixed lane order: plain loops over them are not vectorised without giving up IEEE semantics.
// Built on the compiler's vector extension, so the same source serves every instruction set.
// Kernels over bf16 and f16 load and store those types and compute in float.
#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#if defined(__AVX512F__) || defined(__F16C__)
#include <immintrin.h>
#endif

#include "weft/tensor/dtype.h"

#include "ops/strided.h"

namespace weft::simd {

#if defined(__AVX512F__)
inline constexpr int kBytes = 64;
#elif defined(__AVX__)
inline constexpr int kBytes = 32;
#else
inline constexpr int kBytes = 16;
#endif

/// Elements of one vector of floats or doubles.
template <class A>
inline constexpr int kLanes = kBytes / static_cast<int>(sizeof(A));

namespace detail {
template <class A, int kLaneCount>
struct VectorOf {
  typedef A type __attribute__((vector_size(kLaneCount * sizeof(A))));
};
}  // namespace detail

template <class A>
using Vec = typename detail::VectorOf<A, kLanes<A>>::type;
using IntVec = typename detail::VectorOf<int32_t, kLanes<float>>::type;
using WordVec = typename detail::VectorOf<uint32_t, kLanes<float>>::type;
using HalfWordVec = typename detail::VectorOf<uint16_t, kLanes<float>>::type;

/// How many lanes of a vector exist in memory.
struct Full {};
struct Tail {
  int count;
};

template <class A>
inline Vec<A> broadcast(A value) {
  return Vec<A>{} + value;
}

/// kLanes elements of T, converted to the type in which T is accumulated.
template <class T>
inline Vec<accumulator_t<T>> load(const T* from, Full = {}) {
  using A = accumulator_t<T>;
  if constexpr (std::is_same_v<T, A>) {
    Vec<A> value;
    std::memcpy(&value, from, sizeof(value));
    return value;
  } else if constexpr (std::is_same_v<T, bf16>) {
#if defined(__AVX512F__)
    // Spelled out: the conversion below becomes two halves and their insertion.
    const __m512i words = _mm512_maskz_cvtepu16_epi32(
        0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
    return std::bit_cast<Vec<float>>(std::bit_cast<WordVec>(words) << 16);
#else
    HalfWordVec bits;
    std::memcpy(&bits, from, sizeof(bits));
    return std::bit_cast<Vec<float>>(__builtin_convertvector(bits, WordVec) << 16);
#endif
  } else {
#if defined(__AVX512F__)
    return std::bit_cast<Vec<float>>(
        _mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))));
#elif defined(__F16C__)
    return std::bit_cast<Vec<float>>(
        _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
#else
    Vec<float> value;
    for (int lane = 0; lane < kLanes<float>; ++lane) value[lane] = static_cast<float>(from[lane]);
    return value;
#endif
  }
}

namespace detail {
inline HalfWordVec bf16_bits(Vec<float> value) {
#if defined(__AVX512BF16__)
  // Flushes numbers below 2^-126 to zero, unlike the conversion below.
  return std::bit_cast<HalfWordVec>(_mm512_cvtneps_pbh(std::bit_cast<__m512>(value)));
#else
  const WordVec u = std::bit_cast<WordVec>(value);
  const WordVec rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  const auto is_nan = (u & 0x7fffffffu) > 0x7f800000u;
  const WordVec bits = is_nan ? ((u >> 16) | 0x40u) : rounded;
#if defined(__AVX512F__)
  return std::bit_cast<HalfWordVec>(
      _mm512_maskz_cvtepi32_epi16(0xffff, std::bit_cast<__m512i>(bits)));
#else
  return __builtin_convertvector(bits, HalfWordVec);
#endif
#endif
}
}  // namespace detail

template <class T>
inline void store(T* to, Vec<accumulator_t<T>> value, Full = {}) {
  if constexpr (std::is_same_v<T, accumulator_t<T>>) {
    std::memcpy(to, &value, sizeof(value));
  } else if constexpr (std::is_same_v<T, bf16>) {
    const HalfWordVec bits = detail::bf16_bits(value);
    std::memcpy(static_cast<void*>(to), &bits, sizeof(bits));
  } else {
#if defined(__AVX512F__)
    _mm256_storeu_si256(
        reinterpret_cast<__m256i*>(to),
        _mm512_maskz_cvtps_ph(0xffff, std::bit_cast<__m512>(value), _MM_FROUND_TO_NEAREST_INT));
#elif defined(__F16C__)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to),
                     _mm256_cvtps_ph(std::bit_cast<__m256>(value), _MM_FROUND_TO_NEAREST_INT));
#else
    for (int lane = 0; lane < kLanes<float>; ++lane) to[lane] = T(value[lane]);
#endif
  }
}

/// Missing lanes read as zero.
template <class T>
inline Vec<accumulator_t<T>> load(const T* from, Tail tail) {
  T lanes[kLanes<accumulator_t<T>>] = {};
  std::memcpy(static_cast<void*>(lanes), from, static_cast<size_t>(tail.count) * sizeof(T));
  return load(lanes);
}

template <class T>
inline void store(T* to, Vec<accumulator_t<T>> value, Tail tail) {
  T lanes[kLanes<accumulator_t<T>>];
  store(lanes, value);
  std::memcpy(static_cast<void*>(to), lanes, static_cast<size_t>(tail.count) * sizeof(T));
}

/// Zero in the lanes that do not exist, so that a sum leaves them out.
template <class V>
inline V keep(V value, Full) {
  return value;
}
template <class V>
inline V keep(V value, Tail tail) {
  for (int lane = tail.count; lane < static_cast<int>(sizeof(V) / sizeof(value[0])); ++lane) {
    value[lane] = 0;
  }
  return value;
}

/// The value after a trip through memory as T.
template <class T>
inline Vec<accumulator_t<T>> round_to(Vec<accumulator_t<T>> value) {
  if constexpr (std::is_same_v<T, accumulator_t<T>>) {
    return value;
  } else {
    T lanes[kLanes<float>];
    store(lanes, value);
    return load(lanes);
  }
}

/// a > b ? a : b, so b where either is NaN.
template <class V>
inline V max(V a, V b) {
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<V, Vec<float>>) {
    return std::bit_cast<V>(
        _mm512_maskz_max_ps(0xffff, std::bit_cast<__m512>(a), std::bit_cast<__m512>(b)));
  }
#endif
  return a > b ? a : b;
}
/// a < b ? a : b, so b where either is NaN.
template <class V>
inline V min(V a, V b) {
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<V, Vec<float>>) {
    return std::bit_cast<V>(
        _mm512_maskz_min_ps(0xffff, std::bit_cast<__m512>(a), std::bit_cast<__m512>(b)));
  }
#endif
  return a < b ? a : b;
}

namespace detail {
template <int kDistance, class V, int... kLane>
inline V exchange(V v, std::integer_sequence<int, kLane...>) {
  return __builtin_shufflevector(v, v, (kLane ^ kDistance)...);
}
template <int kDistance, class A, class Combine>
inline A fold(Vec<A> v, Combine combine) {
  if constexpr (kDistance == 0) {
    return v[0];
  } else {
    v = combine(v, exchange<kDistance>(v, std::make_integer_sequence<int, kLanes<A>>()));
    return fold<kDistance / 2, A>(v, combine);
  }
}
}  // namespace detail

template <class A>
inline A sum_lanes(Vec<A> v) {
  return detail::fold<kLanes<A> / 2, A>(v, [](Vec<A> a, Vec<A> b) { return a + b; });
}
template <class A>
inline A max_lanes(Vec<A> v) {
  return detail::fold<kLanes<A> / 2, A>(v, [](Vec<A> a, Vec<A> b) { return max(a, b); });
}

/// Independent accumulators of a reduction: enough to hide the latency of an addition.
inline constexpr int kUnroll = 4;

/// Calls body(i, lanes, slot) for i = 0, kLanes, ... below `count`: `lanes` is Full, and Tail for
/// the rest; `slot` is a compile-time number below kUnroll that selects an accumulator.
template <class A, class Body>
inline void for_each_vector(int64_t count, Body&& body) {
  constexpr int64_t kStep = kLanes<A>;
  int64_t i = 0;
  for (; i + kUnroll * kStep <= count; i += kUnroll * kStep) {
    body(i, Full{}, std::integral_constant<int, 0>{});
    body(i + kStep, Full{}, std::integral_constant<int, 1>{});
    body(i + 2 * kStep, Full{}, std::integral_constant<int, 2>{});
    body(i + 3 * kStep, Full{}, std::integral_constant<int, 3>{});
  }
  for (; i + kStep <= count; i += kStep) body(i, Full{}, std::integral_constant<int, 0>{});
  if (i < count) body(i, Tail{static_cast<int>(count - i)}, std::integral_constant<int, 0>{});
}

/// Calls body(at, lanes) for vectors that cover an elementwise loop over N operands, on all
/// threads: element k of a vector of operand i lies at at[i] + k. Runs that are not dense in all
/// operands go one element at a time.
template <class A, int N, class Body>
inline void for_each_vector(const StridedLoop<N>& loop, Body&& body) {
  constexpr int64_t kGrain = 16384;
  loop.for_each_run(kGrain, [&](std::array<int64_t, N> at, const auto& strides, int64_t count) {
    bool dense = true;
    for (int operand = 0; operand < N; ++operand) dense = dense && strides[operand] == 1;
    if (dense) {
      for_each_vector<A>(count, [&](int64_t i, auto lanes, auto) {
        std::array<int64_t, N> here;
        for (int operand = 0; operand < N; ++operand) here[operand] = at[operand] + i;
        body(here, lanes);
      });
    } else {
      for (int64_t i = 0; i < count; ++i) {
        body(at, Tail{1});
        for (int operand = 0; operand < N; ++operand) at[operand] += strides[operand];
      }
    }
  });
}

/// kUnroll partial sums of a row.
template <class A>
struct Accumulators {
  Vec<A> part[kUnroll] = {};
  A sum() const { return sum_lanes<A>((part[0] + part[1]) + (part[2] + part[3])); }
};

}  // namespace weft::simd
