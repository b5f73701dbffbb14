#include "weft/nn/loss.h"

#include "weft/autograd/functions/cross_entropy.h"
#include "weft/autograd/functions/view.h"
#include "weft/autograd/node.h"
#include "weft/tensor/check.h"
#include "weft/tensor/ops/arithmetic.h"
#include "weft/tensor/ops/reduce.h"
#include "weft/tensor/ops/unary.h"

namespace weft::nn {
namespace {

void check_same_shape(const char* loss, const Variable& prediction, const Variable& target) {
  WEFT_CHECK(prediction.shape() == target.shape(), ShapeError,
             "{}: prediction {} and target {} differ in shape", loss, prediction.data(),
             target.data());
}

}  // namespace

Variable mse_loss(const Variable& prediction, const Variable& target) {
  check_same_shape("mse_loss", prediction, target);
  const Tensor difference = sub(prediction.data(), target.data());
  return autograd::record(
      "mse_loss", mean(square(difference)), {prediction, target},
      [saved = autograd::SavedTensor(difference)](const Tensor& grad) -> std::vector<Tensor> {
        const double count = static_cast<double>(saved.get().numel());
        const Tensor dprediction = mul(saved.get(), mul(grad, 2.0 / count));
        return {dprediction, neg(dprediction)};
      });
}

Variable bce_with_logits_loss(const Variable& logits, const Variable& target) {
  check_same_shape("bce_with_logits_loss", logits, target);
  const Tensor& x = logits.data();
  const Tensor& y = target.data();
  const Tensor log_part = log1p(exp(neg(abs(x))));
  const Tensor losses = add(sub(relu(x), mul(x, y)), log_part);
  // One fused backward: composing the pieces would give the wrong slope at x = 0, where relu and
  // abs have kinks.
  return autograd::record(
      "bce_with_logits_loss", mean(losses), {logits, target},
      [x = autograd::SavedTensor(x),
       y = autograd::SavedTensor(y)](const Tensor& grad) -> std::vector<Tensor> {
        const Tensor scale = div(grad, static_cast<double>(x.get().numel()));
        return {mul(sub(sigmoid(x.get()), y.get()), scale), mul(neg(x.get()), scale)};
      });
}

Variable cross_entropy_loss(const Variable& logits, const Tensor& targets, int64_t ignore_index) {
  WEFT_CHECK(logits.rank() >= 1, ShapeError, "cross_entropy_loss: logits need a class axis, got {}",
             logits.data());
  const int64_t classes = logits.size(-1);
  WEFT_CHECK(targets.numel() * classes == logits.numel(), ShapeError,
             "cross_entropy_loss: logits {} and targets {} do not fit", logits.data(), targets);
  return autograd::cross_entropy(autograd::reshape(logits, {targets.numel(), classes}),
                                 targets.reshape({targets.numel()}), ignore_index);
}

}  // namespace weft::nn
