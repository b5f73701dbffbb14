#include "weft/autograd/functions/softmax.h"

#include "weft/autograd/node.h"
#include "weft/tensor/ops/softmax.h"

namespace weft::autograd {

Variable softmax(const Variable& x, int axis) {
  Tensor y = weft::softmax(x.data(), axis);
  return record("softmax", y, {x},
                [y = SavedTensor(y), axis](const Tensor& dy) -> std::vector<Tensor> {
                  return {softmax_backward(dy, y.get(), axis)};
                });
}

Variable log_softmax(const Variable& x, int axis) {
  Tensor y = weft::log_softmax(x.data(), axis);
  return record("log_softmax", y, {x},
                [y = SavedTensor(y), axis](const Tensor& dy) -> std::vector<Tensor> {
                  return {log_softmax_backward(dy, y.get(), axis)};
                });
}

}  // namespace weft::autograd
