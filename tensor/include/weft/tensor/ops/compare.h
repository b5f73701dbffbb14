#pragma once

#include "weft/tensor/tensor.h"

namespace weft {

// Elementwise comparisons, logic and choice. Operands broadcast, aligned at the last axis. Errors:
// ShapeError (shapes that do not broadcast), DTypeError (types that differ, or a scalar that an
// integer type cannot hold), DeviceError.

// Comparisons of two tensors of one type (any, bool included: false < true) or of a tensor and a
// scalar; the result is bool. A scalar meets half types in float. As in IEEE 754, NaN differs from
// everything, itself included, and is neither less nor greater than anything.
Tensor eq(const Tensor& a, const Tensor& b);
Tensor eq(const Tensor& a, double b);
Tensor ne(const Tensor& a, const Tensor& b);
Tensor ne(const Tensor& a, double b);
Tensor lt(const Tensor& a, const Tensor& b);
Tensor lt(const Tensor& a, double b);
Tensor le(const Tensor& a, const Tensor& b);
Tensor le(const Tensor& a, double b);
Tensor gt(const Tensor& a, const Tensor& b);
Tensor gt(const Tensor& a, double b);
Tensor ge(const Tensor& a, const Tensor& b);
Tensor ge(const Tensor& a, double b);

// Logic of bool tensors; DTypeError for other types.
Tensor logical_and(const Tensor& a, const Tensor& b);
Tensor logical_or(const Tensor& a, const Tensor& b);
Tensor logical_xor(const Tensor& a, const Tensor& b);
Tensor logical_not(const Tensor& x);

/// a where `condition` (bool) holds, b elsewhere, bit for bit. a and b have one type, which the
/// result keeps; all three broadcast.
Tensor where(const Tensor& condition, const Tensor& a, const Tensor& b);
Tensor where(const Tensor& condition, const Tensor& a, double b);
Tensor where(const Tensor& condition, double a, const Tensor& b);

/// Which elements of a floating tensor are NaN, as bool.
Tensor isnan(const Tensor& x);

/// Which elements of a floating tensor are neither infinite nor NaN, as bool.
Tensor isfinite(const Tensor& x);

/// Whether no element of a floating tensor is infinite or NaN; true over no elements. Reads the
/// tensor once, writes nothing, and waits for the device.
bool all_finite(const Tensor& x);

}  // namespace weft
