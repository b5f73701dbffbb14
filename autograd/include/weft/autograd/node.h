#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "weft/autograd/variable.h"
#include "weft/tensor/tensor.h"

namespace weft::autograd {

/// Maps the gradients of a function's outputs to the gradients of its inputs. An undefined output
/// gradient means zero (the output was not used); an undefined input gradient means none flows
/// there.
using Backward = std::function<std::vector<Tensor>(const std::vector<Tensor>& grad_outputs)>;

/// One recorded function call.
struct Node {
  std::string name;
  uint64_t sequence = 0;  // grows with time: inputs were made before outputs
  std::vector<std::shared_ptr<GradMeta>> inputs;  // null where an input needs no gradient
  std::vector<std::weak_ptr<GradMeta>> outputs;   // for hooks and retained gradients
  Backward backward;                              // empty once freed
  int module = 0;                                 // profiler::current_module() of the call
};

/// A tensor kept for backward. Remembers the version of the storage and refuses to give back
/// damaged values. Of a variable that can be computed again it keeps how, and get() does it.
class SavedTensor {
 public:
  SavedTensor() = default;
  SavedTensor(const Tensor& tensor)  // NOLINT: made implicitly in lambda captures
      : tensor_(tensor), version_(tensor.defined() ? tensor.version() : 0) {}
  explicit SavedTensor(const Variable& variable) {
    if (variable.recomputation() != nullptr) {
      recomputation_ = variable.recomputation();
    } else {
      *this = SavedTensor(variable.data());
    }
  }

  bool defined() const { return tensor_.defined() || recomputation_ != nullptr; }
  /// Throws AutogradError when the tensor was changed in place since it was saved.
  Tensor get() const;
  /// Whether `tensor` lies in the memory that was saved, unchanged since. Does not read it.
  bool is(const Tensor& tensor) const;

 private:
  Tensor tensor_;
  uint64_t version_ = 0;
  std::shared_ptr<const std::function<Tensor()>> recomputation_;
};

/// Whether a call with these inputs must be recorded: gradients are enabled and one of them asks
/// for one.
bool must_record(const std::vector<Variable>& inputs);

/// Wraps the outputs of a function in variables and records its backward, which must return one
/// gradient per input. With nothing to record, `backward` is dropped and with it everything it
/// saved.
std::vector<Variable> record(std::string_view name, std::vector<Tensor> outputs,
                             const std::vector<Variable>& inputs, Backward backward);

/// record() for functions of one output: `backward` takes its gradient, which is always defined.
Variable record(std::string_view name, Tensor output, const std::vector<Variable>& inputs,
                std::function<std::vector<Tensor>(const Tensor& grad_output)> backward);

/// Sums `grad` over the axes that broadcasting had added or stretched, giving `shape`.
Tensor reduce_to_shape(const Tensor& grad, const Shape& shape);

/// Runs backward from several variables at once (see Variable::backward). An undefined seed means
/// one, for a variable of one element.
void backward(const std::vector<Variable>& roots, const std::vector<Tensor>& grad_outputs,
              bool retain_graph = false);

/// Whether `grad` is the one that backward(), running in this thread, started from where it was
/// given no gradient, so that functions can leave out a product with it. Does not read memory.
bool is_unit_seed(const Tensor& grad);

}  // namespace weft::autograd
