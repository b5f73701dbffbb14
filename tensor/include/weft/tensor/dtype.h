#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "weft/tensor/half.h"

namespace weft {

/// Element types of a Tensor.
enum class DType : uint8_t { f64, f32, bf16, f16, i64, i32, u8, boolean };

/// Bytes of one element.
size_t size_of(DType dtype);

/// "f32", "bf16", "bool", ...
std::string_view to_string(DType dtype);

/// Inverse of to_string. Throws ConfigError listing the known names.
DType parse_dtype(std::string_view name);

constexpr bool is_floating(DType d) {
  return d == DType::f64 || d == DType::f32 || d == DType::bf16 || d == DType::f16;
}
constexpr bool is_integer(DType d) {
  return d == DType::i64 || d == DType::i32 || d == DType::u8;
}

/// The DType of a C++ element type: dtype_of<float> == DType::f32.
template <class T>
inline constexpr DType dtype_of = [] {
  static_assert(sizeof(T) == 0, "not an element type of Tensor");
  return DType::f32;
}();
template <>
inline constexpr DType dtype_of<double> = DType::f64;
template <>
inline constexpr DType dtype_of<float> = DType::f32;
template <>
inline constexpr DType dtype_of<bf16> = DType::bf16;
template <>
inline constexpr DType dtype_of<f16> = DType::f16;
template <>
inline constexpr DType dtype_of<int64_t> = DType::i64;
template <>
inline constexpr DType dtype_of<int32_t> = DType::i32;
template <>
inline constexpr DType dtype_of<uint8_t> = DType::u8;
template <>
inline constexpr DType dtype_of<bool> = DType::boolean;

/// The type in which sums over T are kept: double for double, float for float and the half types.
template <class T>
struct AccumulatorOf {
  using type = float;
};
template <>
struct AccumulatorOf<double> {
  using type = double;
};
template <class T>
using accumulator_t = typename AccumulatorOf<T>::type;

}  // namespace weft
