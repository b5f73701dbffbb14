#pragma once

#include "weft/tensor/tensor.h"

namespace weft {

// Elementwise arithmetic. Operands broadcast, aligned at the last axis; the result is dense. Two
// tensors must have the same type (any but bool) and device: nothing is promoted silently. A scalar
// takes the type in which the tensor's elements are computed (float for the half types); for an
// integer tensor it must be a whole number that fits. Integers wrap around on overflow. Half types
// are computed in float and rounded once.
//
// Errors: ShapeError (shapes that do not broadcast), DTypeError (types that differ, bool, a scalar
// that the type cannot hold), DeviceError.

Tensor add(const Tensor& a, const Tensor& b);
Tensor add(const Tensor& a, double b);
Tensor add(double a, const Tensor& b);

Tensor sub(const Tensor& a, const Tensor& b);
Tensor sub(const Tensor& a, double b);
Tensor sub(double a, const Tensor& b);

Tensor mul(const Tensor& a, const Tensor& b);
Tensor mul(const Tensor& a, double b);
Tensor mul(double a, const Tensor& b);

/// Integers divide as in C++, rounding toward zero; a divisor of zero throws ConfigError.
Tensor div(const Tensor& a, const Tensor& b);
Tensor div(const Tensor& a, double b);
Tensor div(double a, const Tensor& b);

/// The larger element; NaN if one of them is.
Tensor maximum(const Tensor& a, const Tensor& b);
Tensor maximum(const Tensor& a, double b);
Tensor maximum(double a, const Tensor& b);

/// The smaller element; NaN if one of them is.
Tensor minimum(const Tensor& a, const Tensor& b);
Tensor minimum(const Tensor& a, double b);
Tensor minimum(double a, const Tensor& b);

/// a to the power b, as std::pow. Integers: a negative exponent gives the true power rounded toward
/// zero, and throws ConfigError for a == 0.
Tensor pow(const Tensor& a, const Tensor& b);
Tensor pow(const Tensor& a, double b);
Tensor pow(double a, const Tensor& b);

Tensor neg(const Tensor& x);

// In place: b broadcasts to the shape of a, never a to that of b. A floating a takes b of any
// floating type and keeps its own; elements are computed in the type of a (float for the half
// types). b may share memory with a in any way. Throws ShapeError also when a repeats elements
// (stride 0).

/// a += alpha * b.
Tensor& add_(Tensor& a, const Tensor& b, double alpha = 1.0);
Tensor& add_(Tensor& a, double b);
Tensor& sub_(Tensor& a, const Tensor& b);
Tensor& sub_(Tensor& a, double b);
Tensor& mul_(Tensor& a, const Tensor& b);
Tensor& mul_(Tensor& a, double b);
Tensor& div_(Tensor& a, const Tensor& b);
Tensor& div_(Tensor& a, double b);

inline Tensor operator+(const Tensor& a, const Tensor& b) {
  return add(a, b);
}
inline Tensor operator+(const Tensor& a, double b) {
  return add(a, b);
}
inline Tensor operator+(double a, const Tensor& b) {
  return add(a, b);
}
inline Tensor operator-(const Tensor& a, const Tensor& b) {
  return sub(a, b);
}
inline Tensor operator-(const Tensor& a, double b) {
  return sub(a, b);
}
inline Tensor operator-(double a, const Tensor& b) {
  return sub(a, b);
}
inline Tensor operator*(const Tensor& a, const Tensor& b) {
  return mul(a, b);
}
inline Tensor operator*(const Tensor& a, double b) {
  return mul(a, b);
}
inline Tensor operator*(double a, const Tensor& b) {
  return mul(a, b);
}
inline Tensor operator/(const Tensor& a, const Tensor& b) {
  return div(a, b);
}
inline Tensor operator/(const Tensor& a, double b) {
  return div(a, b);
}
inline Tensor operator/(double a, const Tensor& b) {
  return div(a, b);
}
inline Tensor operator-(const Tensor& x) {
  return neg(x);
}

}  // namespace weft
