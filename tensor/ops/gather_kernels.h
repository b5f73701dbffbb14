#pragma once

#include "weft/tensor/stream.h"
#include "weft/tensor/tensor.h"

namespace weft {

/// out[..., j, ...] = x[..., index[..., j, ...], ...] along `axis`. `out` is dense and has the
/// shape of `index`, whose elements are valid.
void gather_cpu(const Tensor& x, int axis, const Tensor& index, Tensor& out, Stream stream);

/// x[..., index[..., j, ...], ...] += source[..., j, ...] along `axis`, for f64, f32, i64 and i32.
void scatter_add_cpu(Tensor& x, int axis, const Tensor& index, const Tensor& source, Stream stream);

// Indices outside give zero, or are passed over, and are reported as faults.
void gather_cuda(const Tensor& x, int axis, const Tensor& index, Tensor& out, Stream stream);
void scatter_add_cuda(Tensor& x, int axis, const Tensor& index, const Tensor& source,
                      Stream stream);

}  // namespace weft
