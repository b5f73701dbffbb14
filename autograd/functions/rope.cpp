#include "weft/autograd/functions/rope.h"

#include <utility>

#include "weft/autograd/node.h"

namespace weft::autograd {
namespace {

/// Options whose tensors are watched for changes in place.
class SavedOptions {
 public:
  explicit SavedOptions(const RopeOptions& options)
      : options_(options), positions_(options.positions), table_(options.table) {}

  const RopeOptions& get() const {
    positions_.get();
    table_.get();
    return options_;
  }

 private:
  RopeOptions options_;
  SavedTensor positions_;
  SavedTensor table_;
};

QkvVariables three(const std::vector<Variable>& outputs) {
  return {outputs[0], outputs[1], outputs[2]};
}

}  // namespace

Variable rope(const Variable& x, const RopeOptions& options) {
  Tensor y = weft::rope(x.data(), options);
  if (!grad_enabled()) return Variable(std::move(y));
  return record("rope", std::move(y), {x},
                [saved = SavedOptions(options)](const Tensor& dy) -> std::vector<Tensor> {
                  return {rope_backward(dy, saved.get())};
                });
}

QkvVariables rope_qkv(const Variable& packed, const QkvSplit& split, const RopeOptions& options) {
  const Qkv parts = weft::rope_qkv(packed.data(), split, options);
  return three(
      record("rope_qkv", {parts.q, parts.k, parts.v}, {packed},
             [saved = SavedOptions(options), split, shape = packed.shape(),
              dtype = packed.dtype()](const std::vector<Tensor>& grads) -> std::vector<Tensor> {
               return {rope_qkv_backward({grads[0], grads[1], grads[2]}, shape, dtype, split,
                                         saved.get())};
             }));
}

QkvVariables split_qkv(const Variable& packed, const QkvSplit& split) {
  const Qkv parts = weft::split_qkv(packed.data(), split);
  return three(
      record("split_qkv", {parts.q, parts.k, parts.v}, {packed},
             [split, shape = packed.shape(),
              dtype = packed.dtype()](const std::vector<Tensor>& grads) -> std::vector<Tensor> {
               return {split_qkv_backward({grads[0], grads[1], grads[2]}, shape, dtype, split)};
             }));
}

}  // namespace weft::autograd
