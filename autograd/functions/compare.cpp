#include "weft/autograd/functions/compare.h"

#include "weft/autograd/node.h"
#include "weft/tensor/ops/compare.h"

namespace weft::autograd {

using Grads = std::vector<Tensor>;

Variable where(const Tensor& condition, const Variable& a, const Variable& b) {
  return record(
      "where", weft::where(condition, a.data(), b.data()), {a, b},
      [c = SavedTensor(condition), a_shape = a.shape(), b_shape = b.shape(),
       a_needs = a.requires_grad(), b_needs = b.requires_grad()](const Tensor& dy) -> Grads {
        Grads grads(2);
        if (a_needs) grads[0] = reduce_to_shape(weft::where(c.get(), dy, 0.0), a_shape);
        if (b_needs) grads[1] = reduce_to_shape(weft::where(c.get(), 0.0, dy), b_shape);
        return grads;
      });
}

Variable where(const Tensor& condition, const Variable& a, double b) {
  return record("where", weft::where(condition, a.data(), b), {a},
                [c = SavedTensor(condition), shape = a.shape()](const Tensor& dy) -> Grads {
                  return {reduce_to_shape(weft::where(c.get(), dy, 0.0), shape)};
                });
}

Variable where(const Tensor& condition, double a, const Variable& b) {
  return record("where", weft::where(condition, a, b.data()), {b},
                [c = SavedTensor(condition), shape = b.shape()](const Tensor& dy) -> Grads {
                  return {reduce_to_shape(weft::where(c.get(), 0.0, dy), shape)};
                });
}

}  // namespace weft::autograd
