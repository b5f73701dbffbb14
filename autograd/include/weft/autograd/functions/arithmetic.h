#pragma once

#include "weft/autograd/variable.h"

namespace weft::autograd {

// Differentiable versions of weft/tensor/ops/arithmetic.h: operands broadcast and must have one
// type; a gradient is summed over the axes along which its operand was repeated.

Variable add(const Variable& a, const Variable& b);
Variable add(const Variable& a, double b);
Variable add(double a, const Variable& b);

Variable sub(const Variable& a, const Variable& b);
Variable sub(const Variable& a, double b);
Variable sub(double a, const Variable& b);

Variable mul(const Variable& a, const Variable& b);
Variable mul(const Variable& a, double b);
Variable mul(double a, const Variable& b);

Variable div(const Variable& a, const Variable& b);
Variable div(const Variable& a, double b);
Variable div(double a, const Variable& b);

/// The gradient goes to the larger operand; equal ones get half of it each.
Variable maximum(const Variable& a, const Variable& b);
Variable maximum(const Variable& a, double b);
Variable maximum(double a, const Variable& b);

/// The gradient goes to the smaller operand; equal ones get half of it each.
Variable minimum(const Variable& a, const Variable& b);
Variable minimum(const Variable& a, double b);
Variable minimum(double a, const Variable& b);

/// The gradient of a is 0 where b is 0. That of b is 0 where a is 0 (the power does not change
/// there for b > 0) and NaN where a is negative.
Variable pow(const Variable& a, const Variable& b);
Variable pow(const Variable& a, double b);
Variable pow(double a, const Variable& b);

Variable neg(const Variable& x);

inline Variable operator+(const Variable& a, const Variable& b) {
  return add(a, b);
}
inline Variable operator+(const Variable& a, double b) {
  return add(a, b);
}
inline Variable operator+(double a, const Variable& b) {
  return add(a, b);
}
inline Variable operator-(const Variable& a, const Variable& b) {
  return sub(a, b);
}
inline Variable operator-(const Variable& a, double b) {
  return sub(a, b);
}
inline Variable operator-(double a, const Variable& b) {
  return sub(a, b);
}
inline Variable operator*(const Variable& a, const Variable& b) {
  return mul(a, b);
}
inline Variable operator*(const Variable& a, double b) {
  return mul(a, b);
}
inline Variable operator*(double a, const Variable& b) {
  return mul(a, b);
}
inline Variable operator/(const Variable& a, const Variable& b) {
  return div(a, b);
}
inline Variable operator/(const Variable& a, double b) {
  return div(a, b);
}
inline Variable operator/(double a, const Variable& b) {
  return div(a, b);
}
inline Variable operator-(const Variable& x) {
  return neg(x);
}

}  // namespace weft::autograd
