#include "ops/operand.h"

#include <array>
#include <cmath>
#include <limits>

#include "weft/tensor/check.h"

namespace weft {
namespace {

/// First and one-past-last element of a non-empty tensor in its storage.
std::array<int64_t, 2> element_range(const Tensor& tensor) {
  int64_t last = tensor.offset();
  for (int axis = 0; axis < tensor.rank(); ++axis)
    last += (tensor.shape()[axis] - 1) * tensor.strides()[axis];
  return {tensor.offset(), last + 1};
}

}  // namespace

void check_defined(const char* op, const Tensor& tensor) {
  WEFT_CHECK(tensor.defined(), ShapeError, "{}: undefined tensor", op);
}

void check_floating(const char* op, const Tensor& tensor) {
  check_defined(op, tensor);
  WEFT_CHECK(is_floating(tensor.dtype()), DTypeError, "{}: takes f64, f32, bf16 or f16, got {}", op,
             tensor);
}

void check_numeric(const char* op, const Tensor& tensor) {
  check_defined(op, tensor);
  WEFT_CHECK(tensor.dtype() != DType::boolean, DTypeError, "{}: takes any type but bool, got {}",
             op, tensor);
}

OperandPair pair_operands(const char* op, const Tensor& a, const Tensor& b) {
  check_defined(op, a);
  check_defined(op, b);
  WEFT_CHECK(a.dtype() == b.dtype(), DTypeError,
             "{}: operands must have the same type, got {} and {}; convert one with to()", op, a,
             b);
  WEFT_CHECK(a.device() == b.device(), DeviceError,
             "{}: operands must be on the same device, got {} and {}", op, a, b);
  if (a.shape() == b.shape()) return {{a}, {b}, a.shape(), a.dtype(), a.device()};
  const Shape shape = broadcast_shapes(op, a.shape(), b.shape());
  return {{a.expand(shape)}, {b.expand(shape)}, shape, a.dtype(), a.device()};
}

OperandPair pair_operands(const char* op, const Tensor& a, double b) {
  check_defined(op, a);
  return {{a}, {{}, b}, a.shape(), a.dtype(), a.device()};
}

OperandPair pair_operands(const char* op, double a, const Tensor& b) {
  check_defined(op, b);
  return {{{}, a}, {b}, b.shape(), b.dtype(), b.device()};
}

void check_writable(const char* op, const Tensor& tensor) {
  for (int axis = 0; axis < tensor.rank(); ++axis) {
    WEFT_CHECK(tensor.strides()[axis] != 0 || tensor.shape()[axis] <= 1, ShapeError,
               "{}: {} repeats elements (stride 0 on axis {}) and cannot be written", op, tensor,
               axis);
  }
}

Tensor apart_from(const Tensor& source, const Tensor& destination) {
  if (source.storage() != destination.storage() || source.numel() == 0 || destination.numel() == 0)
    return source;
  if (source.dtype() == destination.dtype() && source.offset() == destination.offset() &&
      source.shape() == destination.shape() && source.strides() == destination.strides())
    return source;
  const auto from = element_range(source);
  const auto to = element_range(destination);
  const auto from_size = static_cast<int64_t>(size_of(source.dtype()));
  const auto to_size = static_cast<int64_t>(size_of(destination.dtype()));
  const bool disjoint =
      from[1] * from_size <= to[0] * to_size || to[1] * to_size <= from[0] * from_size;
  return disjoint ? source : source.clone();
}

template <class C>
C scalar_as(const char* op, double value, DType dtype) {
  if constexpr (std::is_floating_point_v<C>) {
    return static_cast<C>(value);
  } else {
    // Comparing against powers of two: the largest int64_t itself is not a double.
    const double limit = std::ldexp(1.0, std::numeric_limits<C>::digits);
    const double lowest = std::is_signed_v<C> ? -limit : 0.0;
    WEFT_CHECK(value >= lowest && value < limit && value == std::trunc(value), DTypeError,
               "{}: the scalar {} is no value of {}", op, value, dtype);
    return static_cast<C>(value);
  }
}

template double scalar_as<double>(const char*, double, DType);
template float scalar_as<float>(const char*, double, DType);
template int64_t scalar_as<int64_t>(const char*, double, DType);
template int32_t scalar_as<int32_t>(const char*, double, DType);
template uint8_t scalar_as<uint8_t>(const char*, double, DType);

/// The bits of a half type.
template <>
uint16_t scalar_as<uint16_t>(const char* /*op*/, double value, DType dtype) {
  const auto single = static_cast<float>(value);
  return dtype == DType::bf16 ? bf16(single).bits : f16(single).bits;
}

}  // namespace weft
