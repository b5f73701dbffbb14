#include "weft/autograd/functions/batch_norm.h"

#include <optional>

#include "weft/autograd/node.h"
#include "weft/tensor/ops/arithmetic.h"
#include "weft/tensor/ops/unary.h"

namespace weft::autograd {
namespace {

Tensor data_or_none(const Variable& variable) {
  return variable.defined() ? variable.data() : Tensor();
}

Variable record_batch_norm(Tensor y, const Variable& x, const Variable& gain, const Variable& bias,
                           const Tensor& mean, const Tensor& rstd, bool constant_statistics) {
  const auto wanted_dtype = [](const Variable& parameter) {
    return parameter.defined() && parameter.requires_grad() ? std::optional(parameter.dtype())
                                                            : std::nullopt;
  };
  return record(
      "batch_norm", std::move(y), {x, gain, bias},
      [x = SavedTensor(x.data()), gain = SavedTensor(data_or_none(gain)), mean = SavedTensor(mean),
       rstd = SavedTensor(rstd), gain_dtype = wanted_dtype(gain), bias_dtype = wanted_dtype(bias),
       constant_statistics](const Tensor& dy) -> std::vector<Tensor> {
        const BatchNormGrads grads = batch_norm_backward(dy, x.get(), gain.get(), mean.get(),
                                                         rstd.get(), constant_statistics);
        return {grads.dx, gain_dtype ? grads.dgain.to(*gain_dtype) : Tensor(),
                bias_dtype ? grads.dbias.to(*bias_dtype) : Tensor()};
      });
}

}  // namespace

Variable batch_norm_train(const Variable& x, const Variable& gain, const Variable& bias,
                          const RunningStatistics& running, double momentum, double eps) {
  BatchNormResult result = weft::batch_norm_train(x.data(), data_or_none(gain), data_or_none(bias),
                                                  running, momentum, eps);
  return record_batch_norm(result.y, x, gain, bias, result.mean, result.rstd,
                           /*constant_statistics=*/false);
}

Variable batch_norm_eval(const Variable& x, const Variable& gain, const Variable& bias,
                         const RunningStatistics& running, double eps) {
  Tensor y = weft::batch_norm_eval(x.data(), data_or_none(gain), data_or_none(bias), running, eps);
  // Copies: a later training batch changes the running statistics in place.
  return record_batch_norm(std::move(y), x, gain, bias, running.mean.clone(),
                           rsqrt(add(running.variance, eps)), /*constant_statistics=*/true);
}

}  // namespace weft::autograd
