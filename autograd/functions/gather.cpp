#include "weft/autograd/functions/gather.h"

#include "weft/autograd/node.h"
#include "weft/tensor/ops/gather.h"

namespace weft::autograd {

Variable gather(const Variable& x, int axis, const Tensor& index) {
  return record("gather", weft::gather(x.data(), axis, index), {x},
                [shape = x.shape(), axis,
                 index = SavedTensor(index)](const Tensor& dy) -> std::vector<Tensor> {
                  Tensor dx = zeros(shape, dy.dtype(), dy.device());
                  return {weft::scatter_add_(dx, axis, index.get(), dy)};
                });
}

Variable scatter_add(const Variable& x, int axis, const Tensor& index, const Variable& source) {
  return record("scatter_add", weft::scatter_add(x.data(), axis, index, source.data()), {x, source},
                [axis, index = SavedTensor(index),
                 wanted = source.requires_grad()](const Tensor& dy) -> std::vector<Tensor> {
                  return {dy, wanted ? weft::gather(dy, axis, index.get()) : Tensor()};
                });
}

Variable index_select(const Variable& x, int axis, const Tensor& index) {
  return record("index_select", weft::index_select(x.data(), axis, index), {x},
                [shape = x.shape(), axis,
                 index = SavedTensor(index)](const Tensor& dy) -> std::vector<Tensor> {
                  Tensor dx = zeros(shape, dy.dtype(), dy.device());
                  return {weft::index_add_(dx, axis, index.get(), dy)};
                });
}

Variable index_add(const Variable& x, int axis, const Tensor& index, const Variable& source) {
  return record("index_add", weft::index_add(x.data(), axis, index, source.data()), {x, source},
                [axis, index = SavedTensor(index),
                 wanted = source.requires_grad()](const Tensor& dy) -> std::vector<Tensor> {
                  return {dy, wanted ? weft::index_select(dy, axis, index.get()) : Tensor()};
                });
}

}  // namespace weft::autograd
