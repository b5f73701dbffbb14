#pragma once

#include "weft/tensor/tensor.h"

namespace weft {

/// Running sums along `axis`: y[i] = x[0] + ... + x[i]. With `exclusive` without x[i] itself; with
/// `reverse` from the end: y[i] = x[i] + ... + x[n-1]. Floating types stay, and are added up in f64
/// on the CPU; integers and bool give i64 and wrap around. Throws ShapeError for an axis out of
/// range. The gradient of x is cumsum(dy) with the same `exclusive` and the other `reverse`.
Tensor cumsum(const Tensor& x, int axis, bool exclusive = false, bool reverse = false);

}  // namespace weft
