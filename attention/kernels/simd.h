#pragma once

// Vectors of the widest registers that the compiler may use, by GCC's vector extension (also
// understood by Clang): the kernels below this folder are written once for every x86 and ARM.
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

namespace weft::attention::simd {

#if defined(__AVX512F__)
inline constexpr int kVectorBytes = 64;
inline constexpr int kRegisters = 32;
#elif defined(__AVX__)
inline constexpr int kVectorBytes = 32;
inline constexpr int kRegisters = 16;
#elif defined(__aarch64__)
inline constexpr int kVectorBytes = 16;
inline constexpr int kRegisters = 32;
#else
inline constexpr int kVectorBytes = 16;
inline constexpr int kRegisters = 16;
#endif

template <class T>
struct VectorOf {
  using type __attribute__((vector_size(kVectorBytes))) = T;
  using unaligned __attribute__((vector_size(kVectorBytes), aligned(alignof(T)), may_alias)) = T;
};
template <class T>
using Vec = typename VectorOf<T>::type;

/// Elements of one vector.
template <class T>
inline constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));

template <class T>
inline Vec<T> load(const T* p) {
  return *reinterpret_cast<const typename VectorOf<T>::unaligned*>(p);
}
/// `count` elements of another type, converted; the lanes beyond are 0.
template <class T, class From>
inline Vec<T> load_converted(const From* p, int64_t count) {
  if constexpr (std::is_same_v<T, From>) {
    if (count >= kLanes<T>) return load(p);
  }
  alignas(kVectorBytes) T values[kLanes<T>] = {};
  if (count >= kLanes<T>) {
    for (int i = 0; i < kLanes<T>; ++i) values[i] = static_cast<T>(p[i]);
  } else {
    for (int64_t i = 0; i < count; ++i) values[i] = static_cast<T>(p[i]);
  }
  return load(values);
}
template <class T>
inline void store(T* p, Vec<T> v) {
  *reinterpret_cast<typename VectorOf<T>::unaligned*>(p) = v;
}
template <class T>
inline Vec<T> broadcast(T value) {
  return Vec<T>{} + value;
}
/// 0, 1, 2, ...
template <class T>
inline Vec<T> iota() {
  Vec<T> v{};
  for (int i = 0; i < kLanes<T>; ++i) v[i] = static_cast<T>(i);
  return v;
}
template <class T>
inline Vec<T> max(Vec<T> a, Vec<T> b) {
  return a > b ? a : b;
}

/// 2^x within 2 units in the last place; 0 below -126.5 (-inf included); NaN stays NaN. x must not
/// exceed 127.
inline Vec<float> exp2(Vec<float> x) {
  using Bits = Vec<uint32_t>;            // unsigned: a NaN or too large an x may overflow
  constexpr float kRounder = 0x1.8p23f;  // x + kRounder holds round(x) in its low bits
  x = x < -127.0f ? broadcast(-127.0f) : x;
  const Vec<float> shifted = x + kRounder;
  const Vec<float> f = x - (shifted - kRounder);  // in [-1/2, 1/2]
  // Near-minimax polynomial for 2^f, relative error below 4e-9.
  Vec<float> p = broadcast(1.535336188319500e-4f);
  p = p * f + 1.339887440266574e-3f;
  p = p * f + 9.618437357674640e-3f;
  p = p * f + 5.550332471162809e-2f;
  p = p * f + 2.402264791363012e-1f;
  p = p * f + 6.931472028550421e-1f;
  p = p * f + 1.0f;
  // n = -127 makes a zero, which flushes the product.
  const Bits n = std::bit_cast<Bits>(shifted);
  const Vec<float> power = std::bit_cast<Vec<float>>((n << 23) + (127u << 23));
  return p * power;
}

inline Vec<double> exp2(Vec<double> x) {
  for (int i = 0; i < kLanes<double>; ++i) x[i] = std::exp2(x[i]);
  return x;
}

namespace detail {
template <class T, size_t... I>
inline void interleave(Vec<T> a, Vec<T> b, Vec<T>& low, Vec<T>& high, std::index_sequence<I...>) {
  constexpr int n = kLanes<T>;
  low = __builtin_shufflevector(a, b, static_cast<int>(I / 2 + (I % 2) * n)...);
  high = __builtin_shufflevector(a, b, static_cast<int>(n / 2 + I / 2 + (I % 2) * n)...);
}
}  // namespace detail

/// Transposes kLanes<T> vectors of kLanes<T> elements: each round of a perfect shuffle moves one
/// bit of the row index into the column index.
template <class T>
inline void transpose(Vec<T> (&rows)[kLanes<T>]) {
  constexpr int n = kLanes<T>;
#pragma GCC unroll 8
  for (int stride = 1; stride < n; stride *= 2) {
    Vec<T> next[n];
#pragma GCC unroll 16
    for (int i = 0; i < n / 2; ++i) {
      detail::interleave<T>(rows[i], rows[i + n / 2], next[2 * i], next[2 * i + 1],
                            std::make_index_sequence<n>());
    }
#pragma GCC unroll 16
    for (int i = 0; i < n; ++i) rows[i] = next[i];
  }
}

}  // namespace weft::attention::simd
