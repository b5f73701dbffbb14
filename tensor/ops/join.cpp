#include "weft/tensor/ops/join.h"

#include "weft/tensor/check.h"

namespace weft {
namespace {

void check_joinable(const char* op, std::span<const Tensor> tensors) {
  WEFT_CHECK(!tensors.empty(), ShapeError, "{}: needs at least one tensor", op);
  const Tensor& first = tensors[0];
  for (size_t i = 0; i < tensors.size(); ++i) {
    const Tensor& tensor = tensors[i];
    WEFT_CHECK(tensor.defined(), ShapeError, "{}: tensor {} is undefined", op, i);
    WEFT_CHECK(tensor.dtype() == first.dtype(), DTypeError,
               "{}: tensor {} is {}, tensor 0 is {}; types must be equal", op, i, tensor, first);
    WEFT_CHECK(tensor.device() == first.device(), DeviceError,
               "{}: tensor {} is {}, tensor 0 is {}; devices must be equal", op, i, tensor, first);
  }
}

}  // namespace

Tensor cat(std::span<const Tensor> tensors, int axis) {
  check_joinable("cat", tensors);
  const Tensor& first = tensors[0];
  axis = normalize_axis("cat", axis, first.rank());
  Shape shape = first.shape();
  for (size_t i = 1; i < tensors.size(); ++i) {
    const Shape& other = tensors[i].shape();
    bool fits = other.rank() == shape.rank();
    for (int a = 0; fits && a < shape.rank(); ++a) fits = a == axis || other[a] == shape[a];
    WEFT_CHECK(fits, ShapeError,
               "cat: tensor {} is {}, tensor 0 is {}; only axis {} may have another size", i,
               tensors[i], first, axis);
    shape[axis] += other[axis];
  }
  Tensor joined = empty(shape, first.dtype(), first.device());
  int64_t start = 0;
  for (const Tensor& tensor : tensors) {
    const int64_t stop = start + tensor.shape()[axis];
    joined.slice(axis, start, stop).copy_(tensor);
    start = stop;
  }
  return joined;
}

Tensor stack(std::span<const Tensor> tensors, int axis) {
  check_joinable("stack", tensors);
  const Tensor& first = tensors[0];
  axis = normalize_axis("stack", axis, first.rank() + 1);
  std::vector<Tensor> pieces;
  for (size_t i = 0; i < tensors.size(); ++i) {
    WEFT_CHECK(tensors[i].shape() == first.shape(), ShapeError,
               "stack: tensor {} is {}, tensor 0 is {}; shapes must be equal", i, tensors[i],
               first);
    pieces.push_back(tensors[i].unsqueeze(axis));
  }
  return cat(pieces, axis);
}

}  // namespace weft
