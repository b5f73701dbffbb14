#pragma once

#include "weft/tensor/tensor.h"

namespace weft {

/// What topk() gives; both have k entries along the axis.
struct TopK {
  Tensor values;
  Tensor indices;  ///< i64
};

/// The k largest elements along `axis` of a tensor of any type but bool, and where they are: the
/// largest first, equal ones in order of their index. NaN counts as larger than any number. Throws
/// ConfigError unless 1 <= k <= size of the axis, ShapeError for an axis out of range, DTypeError.
TopK topk(const Tensor& x, int64_t k, int axis = -1);

}  // namespace weft
