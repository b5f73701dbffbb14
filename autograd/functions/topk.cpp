#include "weft/autograd/functions/topk.h"

#include "weft/autograd/node.h"
#include "weft/tensor/ops/gather.h"
#include "weft/tensor/ops/topk.h"

namespace weft::autograd {

TopK topk(const Variable& x, int64_t k, int axis) {
  weft::TopK found = weft::topk(x.data(), k, axis);
  Variable values = record("topk", found.values, {x},
                           [shape = x.shape(), axis, indices = SavedTensor(found.indices)](
                               const Tensor& dy) -> std::vector<Tensor> {
                             Tensor dx = zeros(shape, dy.dtype(), dy.device());
                             return {scatter_add_(dx, axis, indices.get(), dy)};
                           });
  return {std::move(values), std::move(found.indices)};
}

}  // namespace weft::autograd
