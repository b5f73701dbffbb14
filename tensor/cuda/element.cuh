#pragma once

// Elements in registers: conversion between storage types and the types computed in, and loads of
// 16 bytes.
#include <cstdint>
#include <type_traits>

#include "weft/tensor/dtype.h"

namespace weft::cuda {

/// The type in which elements of T are computed: float for the half types.
template <class T>
using computed_t = std::conditional_t<std::is_integral_v<T>, T, accumulator_t<T>>;

__device__ inline float to_float(bf16 value) {
  return __uint_as_float(static_cast<uint32_t>(value.bits) << 16);
}
__device__ inline float to_float(f16 value) {
  float result;
  asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value.bits));
  return result;
}

template <class T>
__device__ T from_float(float value) {
  T result;
  if constexpr (std::is_same_v<T, bf16>) {
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
  } else {
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
  }
  return result;
}

/// One element to another type, as convert() of ops/convert.h does on the CPU: anything but zero is
/// true; floating values outside the range of an integer type go to its nearest end and NaN to
/// zero.
template <class To, class From>
__device__ To element_as(From value) {
  constexpr bool is_half_from = std::is_same_v<From, bf16> || std::is_same_v<From, f16>;
  constexpr bool is_half_to = std::is_same_v<To, bf16> || std::is_same_v<To, f16>;
  if constexpr (std::is_same_v<To, From>) {
    return value;
  } else if constexpr (is_half_from) {
    return element_as<To>(to_float(value));
  } else if constexpr (is_half_to) {
    return from_float<To>(static_cast<float>(value));
  } else if constexpr (std::is_same_v<To, bool>) {
    return value != From{0};
  } else if constexpr (std::is_floating_point_v<From> && std::is_integral_v<To>) {
    // 2^63 is the first double beyond int64_t; the ends of the narrower types are exact.
    constexpr int kBits = 8 * sizeof(To) - std::is_signed_v<To>;
    constexpr To kMax = static_cast<To>((uint64_t{1} << kBits) - 1);
    constexpr To kLowest = std::is_signed_v<To> ? static_cast<To>(-kMax - 1) : To{0};
    const auto wide = static_cast<double>(value);
    if (wide >= static_cast<double>(kMax)) return kMax;
    if (wide <= static_cast<double>(kLowest)) return kLowest;
    return wide != wide ? To{0} : static_cast<To>(wide);
  } else {
    return static_cast<To>(value);
  }
}

/// V adjoining elements, moved by one instruction where they are 16 bytes.
template <class T, int V>
struct alignas(sizeof(T) * V) Pack {
  T values[V];
};

template <class T, int V>
__device__ Pack<T, V> load_pack(const T* from) {
  return *reinterpret_cast<const Pack<T, V>*>(from);
}
template <class T, int V>
__device__ void store_pack(T* to, const Pack<T, V>& pack) {
  *reinterpret_cast<Pack<T, V>*>(to) = pack;
}

}  // namespace weft::cuda
