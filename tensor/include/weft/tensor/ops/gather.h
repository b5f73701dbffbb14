#pragma once

#include "weft/tensor/tensor.h"

namespace weft {

// Reading and adding at places that a tensor of indices (i64 or i32) names. An index outside its
// axis (negative ones as well) throws IndexError, naming the index and its position; on a GPU the
// next wait for it throws, and the index gives zero or is passed over. Shapes, types or devices
// that do not fit throw ShapeError, DTypeError or DeviceError.

/// Picks along `axis`: y[i, j, k] = x[i, index[i, j, k], k] for axis 1. `index` has the rank of x
/// and along the other axes at most its sizes; y has the shape of `index` and the type of x.
Tensor gather(const Tensor& x, int axis, const Tensor& index);

/// x with `source` added at the places from which gather() reads: x[i, index[i, j, k], k] +=
/// source[i, j, k] for axis 1. `source` has the shape of `index` and the type of x: floating, i64
/// or i32. Repeated indices add up in order of their place along `axis` whatever the number of
/// threads; half types are added up in f32 and rounded once.
Tensor scatter_add(const Tensor& x, int axis, const Tensor& index, const Tensor& source);
/// scatter_add() in place. Throws ShapeError where x repeats elements (stride 0).
Tensor& scatter_add_(Tensor& x, int axis, const Tensor& index, const Tensor& source);

/// Entries index[0], index[1], ... of `axis`; `index` has rank 1.
Tensor index_select(const Tensor& x, int axis, const Tensor& index);

/// x with entry i of `source` along `axis` added to entry index[i]; otherwise like scatter_add().
Tensor index_add(const Tensor& x, int axis, const Tensor& index, const Tensor& source);
/// index_add() in place. Throws ShapeError where x repeats elements (stride 0).
Tensor& index_add_(Tensor& x, int axis, const Tensor& index, const Tensor& source);

}  // namespace weft
