#include "weft/autograd/functions/linear.h"

#include <utility>

#include "weft/autograd/node.h"
#include "weft/tensor/ops/linear.h"

namespace weft::autograd {

Variable linear(const Variable& x, const Variable& weight, const Variable& bias, bool recompute_y) {
  const bool has_bias = bias.defined();
  Tensor y = weft::linear(x.data(), weight.data(), has_bias ? bias.data() : Tensor());
  if (!grad_enabled()) return Variable(std::move(y));
  const bool want_dx = x.requires_grad(), want_dweight = weight.requires_grad();
  const bool want_dbias = has_bias && bias.requires_grad();
  Variable result = record(
      "linear", std::move(y), {x, weight, bias},
      [x = want_dweight ? SavedTensor(x) : SavedTensor(),
       weight = want_dx ? SavedTensor(weight.data()) : SavedTensor(), weight_dtype = weight.dtype(),
       want_dbias,
       bias_dtype = has_bias ? bias.dtype() : DType::f32](const Tensor& dy) -> std::vector<Tensor> {
        Tensor dx = weight.defined() ? linear_backward_input(dy, weight.get()) : Tensor();
        if (x.defined() && want_dbias && weight_dtype == bias_dtype) {
          LinearParameterGrads grads = linear_backward_parameters(dy, x.get(), weight_dtype);
          return {std::move(dx), std::move(grads.dweight), std::move(grads.dbias)};
        }
        return {std::move(dx),
                x.defined() ? linear_backward_weight(dy, x.get(), weight_dtype) : Tensor(),
                want_dbias ? linear_backward_bias(dy, bias_dtype) : Tensor()};
      });
  if (recompute_y && result.requires_grad()) {
    result.set_recomputation([x = SavedTensor(x), weight = SavedTensor(weight.data()),
                              bias = has_bias ? SavedTensor(bias.data()) : SavedTensor()] {
      return weft::linear(x.get(), weight.get(), bias.get());
    });
  }
  return result;
}

}  // namespace weft::autograd
