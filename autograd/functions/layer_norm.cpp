#include "weft/autograd/functions/layer_norm.h"

#include "weft/autograd/node.h"
#include "weft/tensor/ops/layer_norm.h"

namespace weft::autograd {

Variable layer_norm(const Variable& x, const Variable& gain, const Variable& bias, double eps) {
  const Tensor bias_data = bias.defined() ? bias.data() : Tensor();
  LayerNormResult result = layer_norm_forward(x.data(), gain.data(), bias_data, eps);
  const LayerNormWants wants{.dgain = gain.requires_grad(),
                             .dbias = bias.defined() && bias.requires_grad()};
  return record("layer_norm", result.y, {x, gain, bias},
                [x = SavedTensor(x.data()), gain = SavedTensor(gain.data()),
                 mean = SavedTensor(result.mean), rstd = SavedTensor(result.rstd), wants,
                 bias_dtype = bias.defined() ? bias.dtype() : DType::f32](
                    const Tensor& dy) -> std::vector<Tensor> {
                  LayerNormGrads grads =
                      layer_norm_backward(dy, x.get(), gain.get(), mean.get(), rstd.get(), wants);
                  if (grads.dbias.defined()) grads.dbias = grads.dbias.to(bias_dtype);
                  return {grads.dx, grads.dgain, grads.dbias};
                });
}

}  // namespace weft::autograd
