// The engine: recording function calls and walking the record backwards. See README.md for the idea
// on one page.
#include <algorithm>
#include <atomic>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "weft/autograd/node.h"
#include "weft/tensor/check.h"
#include "weft/tensor/ops/arithmetic.h"
#include "weft/tensor/ops/reduce.h"
#include "weft/tensor/profiler.h"

namespace weft::autograd {

Tensor SavedTensor::get() const {
  if (recomputation_ != nullptr) return (*recomputation_)();
  WEFT_CHECK(
      !tensor_.defined() || tensor_.version() == version_, AutogradError,
      "backward: {} was changed in place after a function saved it (version {}, saved at {})",
      tensor_, tensor_.version(), version_);
  return tensor_;
}

bool SavedTensor::is(const Tensor& tensor) const {
  return tensor_.defined() && tensor.defined() && tensor.storage() == tensor_.storage() &&
         tensor.version() == version_;
}

bool must_record(const std::vector<Variable>& inputs) {
  return grad_enabled() && std::any_of(inputs.begin(), inputs.end(), [](const Variable& input) {
           return input.defined() && input.requires_grad();
         });
}

std::vector<Variable> record(std::string_view name, std::vector<Tensor> outputs,
                             const std::vector<Variable>& inputs, Backward backward) {
  static std::atomic<uint64_t> next_sequence{0};
  std::vector<Variable> results;
  results.reserve(outputs.size());
  std::shared_ptr<Node> node;
  if (must_record(inputs)) {
    node = std::make_shared<Node>();
    node->name = name;
    node->sequence = next_sequence.fetch_add(1, std::memory_order_relaxed);
    node->backward = std::move(backward);
    node->module = profiler::current_module();
    for (const Variable& input : inputs) {
      node->inputs.push_back(input.defined() && input.requires_grad() ? input.grad_meta()
                                                                      : nullptr);
    }
  }
  for (Tensor& output : outputs) {
    const bool differentiable = node != nullptr && is_floating(output.dtype());
    Variable result(std::move(output));
    if (differentiable) {
      GradMeta& meta = *result.impl_->meta;
      meta.producer = node;
      meta.output_index = static_cast<int>(results.size());
      meta.requires_grad = true;
    }
    if (node != nullptr) node->outputs.push_back(result.grad_meta());
    results.push_back(std::move(result));
  }
  return results;
}

Variable record(std::string_view name, Tensor output, const std::vector<Variable>& inputs,
                std::function<std::vector<Tensor>(const Tensor& grad_output)> backward) {
  if (!must_record(inputs)) return Variable(std::move(output));
  std::vector<Tensor> outputs;
  outputs.push_back(std::move(output));
  return record(name, std::move(outputs), inputs,
                [backward = std::move(backward)](const std::vector<Tensor>& grads) {
                  return backward(grads[0]);
                })[0];
}

Tensor reduce_to_shape(const Tensor& grad, const Shape& shape) {
  if (grad.shape() == shape) return grad;
  const int added = grad.rank() - shape.rank();
  std::vector<int> axes;
  for (int axis = 0; axis < grad.rank(); ++axis) {
    if (axis < added || (shape[axis - added] == 1 && grad.shape()[axis] != 1)) axes.push_back(axis);
  }
  return sum(grad, axes, /*keepdim=*/true).reshape(shape);
}

namespace {

/// Adds `grad` to `total`. A gradient may be shared with another function's result, so the first
/// sum makes a new tensor; later ones reuse it.
class GradAccumulator {
 public:
  void add(const Tensor& grad) {
    if (!total_.defined()) {
      total_ = grad;
    } else if (owned_) {
      add_(total_, grad);
    } else {
      total_ = weft::add(total_, grad);
      owned_ = true;
    }
  }
  const Tensor& total() const { return total_; }

 private:
  Tensor total_;
  bool owned_ = false;
};

using OutputGrads = std::vector<GradAccumulator>;

Tensor run_hooks(const GradMeta& meta, Tensor grad) {
  for (const GradHook& hook : meta.hooks) {
    Tensor changed = hook(grad);
    if (!changed.defined()) continue;
    WEFT_CHECK(changed.shape() == grad.shape(), ShapeError,
               "backward: a hook turned gradient {} into {}", grad, changed);
    grad = std::move(changed);
  }
  return grad;
}

/// Whether nobody but a function's gradients holds their memory, together they are all of it, and
/// all are for leaves. Then each can become the gradient of its leaf without a copy: they keep no
/// more alive than is used.
bool can_be_kept(const std::vector<Tensor>& grads,
                 const std::vector<std::shared_ptr<GradMeta>>& inputs) {
  if (grads.empty() || !grads[0].defined()) return false;
  for (const auto& input : inputs) {
    if (input == nullptr || input->producer != nullptr) return false;
  }
  const std::shared_ptr<Storage>& storage = grads[0].storage();
  int64_t end = 0;
  for (const Tensor& grad : grads) {  // one behind the other
    if (!grad.defined() || grad.storage() != storage || !grad.is_contiguous() ||
        grad.offset() != end)
      return false;
    end += grad.numel();
  }
  return static_cast<size_t>(end) * size_of(grads[0].dtype()) == storage->bytes() &&
         storage.use_count() == static_cast<int64_t>(grads.size());
}

/// Adds to the gradient of a leaf (or a variable that retains it). The stored tensor is never
/// shared with the graph, so that later additions can happen in place. `owned` says that nothing
/// else refers to `grad`, though it may be a part of something larger.
void accumulate(GradMeta& meta, const Tensor& grad, bool owned = false) {
  if (!meta.grad.defined()) {
    // A part of something larger would keep all of that alive.
    const bool is_whole =
        static_cast<size_t>(grad.numel()) * size_of(grad.dtype()) == grad.storage()->bytes();
    const bool sole_owner = grad.storage().use_count() == 1 && is_whole && grad.is_contiguous();
    meta.grad =
        (owned || sole_owner) && grad.dtype() == meta.dtype ? grad : grad.to(meta.dtype).clone();
  } else {
    add_(meta.grad, grad);
  }
}

std::vector<std::shared_ptr<Node>> reachable_nodes(const std::vector<Variable>& roots) {
  std::vector<std::shared_ptr<Node>> nodes;
  std::unordered_set<const Node*> seen;
  const auto visit = [&](const std::shared_ptr<Node>& node) {
    if (node != nullptr && seen.insert(node.get()).second) nodes.push_back(node);
  };
  for (const Variable& root : roots) visit(root.grad_meta()->producer);
  for (size_t i = 0; i < nodes.size(); ++i) {
    const std::shared_ptr<Node> node = nodes[i];
    for (const auto& input : node->inputs) {
      if (input != nullptr) visit(input->producer);
    }
  }
  // A function runs after all that it reads, so the latest recorded node never feeds an earlier
  // one.
  std::sort(nodes.begin(), nodes.end(),
            [](const auto& a, const auto& b) { return a->sequence > b->sequence; });
  return nodes;
}

/// The ones that the innermost backward() of this thread has made.
thread_local std::vector<SavedTensor>* unit_seeds = nullptr;

class UnitSeedsGuard {
 public:
  explicit UnitSeedsGuard(std::vector<SavedTensor>& seeds)
      : previous_(std::exchange(unit_seeds, &seeds)) {}
  ~UnitSeedsGuard() { unit_seeds = previous_; }
  UnitSeedsGuard(const UnitSeedsGuard&) = delete;
  UnitSeedsGuard& operator=(const UnitSeedsGuard&) = delete;

 private:
  std::vector<SavedTensor>* previous_;
};

std::vector<Tensor> run_backward(const Node& node, const std::vector<Tensor>& grads) {
  const profiler::Range range(node.name, node.module);
  return node.backward(grads);
}

}  // namespace

bool is_unit_seed(const Tensor& grad) {
  return unit_seeds != nullptr &&
         std::any_of(unit_seeds->begin(), unit_seeds->end(),
                     [&](const SavedTensor& seed) { return seed.is(grad); });
}

void backward(const std::vector<Variable>& roots, const std::vector<Tensor>& grad_outputs,
              bool retain_graph) {
  WEFT_CHECK(roots.size() == grad_outputs.size(), AutogradError,
             "backward: {} variables, {} gradients", roots.size(), grad_outputs.size());
  const NoGradGuard no_grad;
  std::vector<SavedTensor> ones_made;
  const UnitSeedsGuard seeds_guard(ones_made);
  std::unordered_map<const Node*, OutputGrads> pending;
  std::vector<std::pair<std::shared_ptr<GradMeta>, GradAccumulator>> leaves;
  std::unordered_map<const GradMeta*, size_t> leaf_index;

  const auto deliver = [&](const std::shared_ptr<GradMeta>& meta, const Tensor& grad,
                           bool owned = false) {
    if (meta->producer != nullptr) {
      OutputGrads& grads = pending[meta->producer.get()];
      grads.resize(std::max(grads.size(), meta->producer->outputs.size()));
      grads[static_cast<size_t>(meta->output_index)].add(grad);
    } else if (meta->hooks.empty()) {
      accumulate(*meta, grad, owned);
    } else {  // hooks see the complete gradient, once
      const auto [position, is_new] = leaf_index.emplace(meta.get(), leaves.size());
      if (is_new) leaves.emplace_back(meta, GradAccumulator());
      leaves[position->second].second.add(grad);
    }
  };

  for (size_t i = 0; i < roots.size(); ++i) {
    const Variable& root = roots[i];
    WEFT_CHECK(root.defined() && root.requires_grad(), AutogradError,
               "backward: the variable does not depend on anything that requires a gradient");
    Tensor seed = grad_outputs[i];
    if (!seed.defined()) {
      WEFT_CHECK(root.numel() == 1, AutogradError,
                 "backward: {} has more than one element and needs a gradient to start from",
                 root.data());
      seed = ones(root.shape(), root.dtype(), root.device());
      ones_made.emplace_back(seed);
    }
    WEFT_CHECK(seed.shape() == root.shape(), ShapeError, "backward: gradient {} for a variable {}",
               seed, root.data());
    deliver(root.grad_meta(), seed);
  }

  for (const std::shared_ptr<Node>& node : reachable_nodes(roots)) {
    const auto found = pending.find(node.get());
    if (found == pending.end()) continue;
    OutputGrads accumulated = std::move(found->second);
    pending.erase(found);
    WEFT_CHECK(node->backward != nullptr, AutogradError,
               "backward: the record of '{}' was freed by an earlier backward; pass retain_graph "
               "to the first one",
               node->name);
    std::vector<Tensor> grads(node->outputs.size());
    for (size_t i = 0; i < grads.size(); ++i) {
      grads[i] = accumulated[i].total();
      const std::shared_ptr<GradMeta> output = node->outputs[i].lock();
      if (!grads[i].defined() || output == nullptr) continue;
      grads[i] = run_hooks(*output, grads[i]);
      if (output->retain_grad) accumulate(*output, grads[i]);
    }
    accumulated.clear();
    std::vector<Tensor> input_grads = run_backward(*node, grads);
    grads.clear();
    WEFT_CHECK(input_grads.size() == node->inputs.size(), AutogradError,
               "backward: '{}' returned {} gradients for {} inputs", node->name, input_grads.size(),
               node->inputs.size());
    const bool owned = can_be_kept(input_grads, node->inputs);
    for (size_t i = 0; i < input_grads.size(); ++i) {
      const std::shared_ptr<GradMeta>& input = node->inputs[i];
      if (input == nullptr || !input_grads[i].defined()) continue;
      WEFT_CHECK(input_grads[i].shape() == input->shape, ShapeError,
                 "backward: '{}' returned gradient {} for input {} of shape {}", node->name,
                 input_grads[i], i, input->shape);
      const Tensor grad = std::move(input_grads[i]);
      deliver(input, grad, owned);
    }
    if (!retain_graph) {
      node->backward = nullptr;
      node->inputs.clear();  // unlinks the record here, so that a long one is not destroyed by deep
                             // recursion
    }
  }
  for (auto& [meta, grad] : leaves) accumulate(*meta, run_hooks(*meta, grad.total()));
}

}  // namespace weft::autograd
