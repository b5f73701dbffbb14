#pragma once

#include <optional>

#include "weft/tensor/tensor.h"

namespace weft {

/// Rows of `table` [V, E] (any type) for `ids` [...] (i64 or i32): [..., E]. Throws IndexError,
/// naming the id, its position and V, for an id outside [0, V), whose row is zero on a GPU, where
/// the next wait for it throws; ShapeError, DTypeError or DeviceError for operands that do not fit.
/// `out_dtype` rounds the rows of an f32 table to bf16 or f16 on the way; otherwise it must be the
/// table's own type.
Tensor embedding(const Tensor& table, const Tensor& ids,
                 std::optional<DType> out_dtype = std::nullopt);

/// Gradient of the table [V, E] for dy [..., E] (floating): row v is the sum of dy over the
/// positions whose id is v, added up in the order of the positions whatever the number of threads,
/// in f32 for the half types. The result is of `out_dtype`: dy's type, or f32 for the half types.
/// Errors as for embedding().
Tensor embedding_backward(const Tensor& dy, const Tensor& ids, int64_t vocabulary,
                          std::optional<DType> out_dtype = std::nullopt);

}  // namespace weft
