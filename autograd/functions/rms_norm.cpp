#include "weft/autograd/functions/rms_norm.h"

#include <utility>

#include "weft/autograd/node.h"
#include "weft/tensor/ops/rms_norm.h"

namespace weft::autograd {

Variable rms_norm(const Variable& x, const Variable& gain, double eps) {
  RmsNormResult result = rms_norm_forward(x.data(), gain.data(), eps);
  if (!grad_enabled()) return Variable(std::move(result.y));
  return record("rms_norm", result.y, {x, gain},
                [x = SavedTensor(x.data()), gain = SavedTensor(gain.data()),
                 inverse_rms = SavedTensor(result.inverse_rms),
                 want_dgain = gain.requires_grad()](const Tensor& dy) -> std::vector<Tensor> {
                  RmsNormGrads grads = rms_norm_backward(dy, x.get(), gain.get(), inverse_rms.get(),
                                                         /*dsum=*/{}, want_dgain);
                  return {grads.dx, grads.dgain};
                });
}

RmsNormWithResidual rms_norm_residual(const Variable& x, const Variable& residual,
                                      const Variable& gain, double eps, bool recompute_y) {
  RmsNormResidualResult result;
  if (residual.defined()) {
    result = weft::rms_norm_residual(x.data(), residual.data(), gain.data(), eps);
  } else {
    RmsNormResult of_x = rms_norm_forward(x.data(), gain.data(), eps);
    result = {x.data(), std::move(of_x.y), std::move(of_x.inverse_rms)};
  }
  auto outputs =
      record("rms_norm_residual", {result.sum, result.y}, {x, residual, gain},
             [sum = SavedTensor(result.sum), gain = SavedTensor(gain.data()),
              inverse_rms = SavedTensor(result.inverse_rms), want_dgain = gain.requires_grad(),
              has_residual = residual.defined()](const std::vector<Tensor>& grads) {
               const Tensor& dsum = grads[0];
               const Tensor& dy = grads[1];
               const auto for_inputs = [&](const Tensor& dx, const Tensor& dgain) {
                 return std::vector<Tensor>{dx, has_residual ? dx : Tensor(), dgain};
               };
               if (!dy.defined()) return for_inputs(dsum, Tensor());
               const RmsNormGrads found = rms_norm_backward(dy, sum.get(), gain.get(),
                                                            inverse_rms.get(), dsum, want_dgain);
               return for_inputs(found.dx, found.dgain);
             });
  if (recompute_y && outputs[1].requires_grad()) {
    outputs[1].set_recomputation([sum = SavedTensor(result.sum), gain = SavedTensor(gain.data()),
                                  eps] { return weft::rms_norm(sum.get(), gain.get(), eps); });
  }
  return {outputs[0], outputs[1]};
}

}  // namespace weft::autograd
