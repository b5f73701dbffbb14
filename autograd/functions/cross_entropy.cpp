#include "weft/autograd/functions/cross_entropy.h"

#include <memory>
#include <utility>

#include "weft/autograd/node.h"
#include "weft/tensor/ops/arithmetic.h"

namespace weft::autograd {
namespace {

/// What the backward of both forms over logits keeps.
struct SavedRows {
  SavedTensor logits, targets, logsumexp;
  int64_t ignore_index;
  double label_smoothing;

  Tensor backward(const Tensor& dlosses) const {
    return cross_entropy_backward(dlosses, logits.get(), targets.get(), logsumexp.get(),
                                  ignore_index, label_smoothing);
  }
};

}  // namespace

Variable cross_entropy(const Variable& logits, const Tensor& targets, int64_t ignore_index,
                       double label_smoothing) {
  const CrossEntropyResult result =
      cross_entropy_forward(logits.data(), targets, ignore_index, label_smoothing);
  const SavedRows saved{logits.data(), targets, result.logsumexp, ignore_index, label_smoothing};
  return record("cross_entropy", total_loss(result.losses, result.share), {logits},
                [saved, share = result.share](const Tensor& dy) -> std::vector<Tensor> {
                  const Tensor dloss = is_unit_seed(dy) ? share : mul(dy, share);
                  return {saved.backward(dloss.expand({saved.logits.get().size(0)}))};
                });
}

Variable cross_entropy_per_token(const Variable& logits, const Tensor& targets,
                                 int64_t ignore_index, double label_smoothing) {
  const CrossEntropyResult result =
      cross_entropy_forward(logits.data(), targets, ignore_index, label_smoothing);
  const SavedRows saved{logits.data(), targets, result.logsumexp, ignore_index, label_smoothing};
  return record(
      "cross_entropy_per_token", result.losses, {logits},
      [saved](const Tensor& dlosses) -> std::vector<Tensor> { return {saved.backward(dlosses)}; });
}

Variable linear_cross_entropy(const Variable& hidden, const Variable& weight, const Tensor& targets,
                              int64_t ignore_index, double label_smoothing, const Tensor& scale) {
  const bool recorded = must_record({hidden, weight});
  const LinearCrossEntropyOptions options{
      .ignore_index = ignore_index,
      .label_smoothing = label_smoothing,
      .want_dhidden = recorded && hidden.requires_grad(),
      .want_dweight = recorded && weight.requires_grad(),
      .scale = scale,
  };
  LinearCrossEntropyResult result =
      linear_cross_entropy_forward(hidden.data(), weight.data(), targets, options);
  const Tensor loss = result.loss;
  // The first backward gives the gradients away, so that a leaf can take them without a copy; one
  // more (retain_graph) computes them again.
  struct Gradients {
    Tensor dhidden, dweight;
    bool given = false;
  };
  auto kept = std::make_shared<Gradients>();
  kept->dhidden = std::move(result.dhidden);
  kept->dweight = std::move(result.dweight);
  return record("linear_cross_entropy", loss, {hidden, weight},
                [kept, options, hidden = SavedTensor(hidden.data()),
                 weight = SavedTensor(weight.data()), targets = SavedTensor(targets),
                 scale = SavedTensor(scale)](const Tensor& dy) -> std::vector<Tensor> {
                  if (kept->given) {
                    scale.get();
                    LinearCrossEntropyResult again = linear_cross_entropy_forward(
                        hidden.get(), weight.get(), targets.get(), options);
                    kept->dhidden = std::move(again.dhidden);
                    kept->dweight = std::move(again.dweight);
                  }
                  kept->given = true;
                  std::vector<Tensor> grads = {std::move(kept->dhidden), std::move(kept->dweight)};
                  for (Tensor& grad : grads) {
                    if (grad.defined() && !is_unit_seed(dy)) mul_(grad, dy);
                  }
                  if (grads[1].defined()) grads[1] = grads[1].to(weight.get().dtype());
                  return grads;
                });
}

}  // namespace weft::autograd
