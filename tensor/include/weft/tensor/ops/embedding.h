#pragma once

#include "weft/tensor/tensor.h"

namespace weft {

/// Rows of `table` [V, E] (any type) for `ids` [...] (i64 or i32): [..., E]. Throws IndexError,
/// naming the id, its position and V, for an id outside [0, V); ShapeError, DTypeError or
/// DeviceError for operands that do not fit.
Tensor embedding(const Tensor& table, const Tensor& ids);

/// Gradient of the table [V, E] for dy [..., E] (floating): row v is the sum of dy over the
/// positions whose id is v, added up in the order of the positions whatever the number of threads,
/// in f32 for the half types. Errors as for embedding().
Tensor embedding_backward(const Tensor& dy, const Tensor& ids, int64_t vocabulary);

}  // namespace weft
