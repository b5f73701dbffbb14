#pragma once

#include <span>
#include <vector>

#include "weft/tensor/tensor.h"

namespace weft {

/// Tensors one behind the other along `axis`. They agree in type, device, rank and the other sizes.
/// Throws ShapeError (also for no tensors and for rank 0), DTypeError or DeviceError.
Tensor cat(std::span<const Tensor> tensors, int axis);
inline Tensor cat(const std::vector<Tensor>& tensors, int axis) {
  return cat(std::span<const Tensor>(tensors), axis);
}

/// Tensors of one shape along a new axis: n of [..., ...] give [..., n, ...], with n at `axis`.
/// Errors as for cat().
Tensor stack(std::span<const Tensor> tensors, int axis);
inline Tensor stack(const std::vector<Tensor>& tensors, int axis) {
  return stack(std::span<const Tensor>(tensors), axis);
}

}  // namespace weft
