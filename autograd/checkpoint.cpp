#include "weft/autograd/checkpoint.h"

#include <utility>

#include "weft/autograd/node.h"
#include "weft/tensor/check.h"

namespace weft::autograd {
namespace {

/// Puts generators into given states and back at the end of the scope.
class GeneratorStateGuard {
 public:
  GeneratorStateGuard(const std::vector<Generator*>& generators,
                      const std::vector<GeneratorState>& states)
      : generators_(generators) {
    for (size_t i = 0; i < generators.size(); ++i) {
      restore_.push_back(generators[i]->state());
      generators[i]->set_state(states[i]);
    }
  }
  ~GeneratorStateGuard() {
    for (size_t i = 0; i < generators_.size(); ++i) generators_[i]->set_state(restore_[i]);
  }
  GeneratorStateGuard(const GeneratorStateGuard&) = delete;
  GeneratorStateGuard& operator=(const GeneratorStateGuard&) = delete;

 private:
  const std::vector<Generator*>& generators_;
  std::vector<GeneratorState> restore_;
};

thread_local bool recomputing = false;

/// Marks the second run until the end of the scope.
class RecomputingGuard {
 public:
  RecomputingGuard() : previous_(std::exchange(recomputing, true)) {}
  ~RecomputingGuard() { recomputing = previous_; }
  RecomputingGuard(const RecomputingGuard&) = delete;
  RecomputingGuard& operator=(const RecomputingGuard&) = delete;

 private:
  bool previous_;
};

}  // namespace

std::vector<Variable> checkpoint(
    const std::function<std::vector<Variable>(const std::vector<Variable>&)>& function,
    const std::vector<Variable>& inputs, const std::vector<Generator*>& generators) {
  if (!grad_enabled()) return function(inputs);
  std::vector<GeneratorState> states;
  for (const Generator* generator : generators) states.push_back(generator->state());

  std::vector<Tensor> outputs;
  {
    const NoGradGuard no_grad;
    for (const Variable& output : function(inputs)) outputs.push_back(output.data());
  }

  std::vector<SavedTensor> saved;
  std::vector<bool> wants_grad;
  for (const Variable& input : inputs) {
    saved.emplace_back(input);
    wants_grad.push_back(input.requires_grad());
  }
  // Parameters are read by the function without being inputs, so the call is recorded even if no
  // input wants a gradient.
  Variable anchor(scalar(0), /*requires_grad=*/true);
  std::vector<Variable> recorded_inputs = inputs;
  recorded_inputs.push_back(anchor);

  return record(
      "checkpoint", std::move(outputs), recorded_inputs,
      [function, saved = std::move(saved), wants_grad, generators,
       states](const std::vector<Tensor>& grad_outputs) -> std::vector<Tensor> {
        std::vector<Variable> again;
        for (size_t i = 0; i < saved.size(); ++i) again.emplace_back(saved[i].get(), wants_grad[i]);
        std::vector<Variable> roots;
        std::vector<Tensor> seeds;
        {
          const GradModeGuard with_grad(true);
          const RecomputingGuard second_run;
          const GeneratorStateGuard replay(generators, states);
          const std::vector<Variable> outputs_again = function(again);
          WEFT_CHECK(outputs_again.size() == grad_outputs.size(), AutogradError,
                     "checkpoint: the function gave {} outputs at first and {} when computed again",
                     grad_outputs.size(), outputs_again.size());
          for (size_t i = 0; i < outputs_again.size(); ++i) {
            if (!grad_outputs[i].defined() || !outputs_again[i].requires_grad()) continue;
            roots.push_back(outputs_again[i]);
            seeds.push_back(grad_outputs[i]);
          }
        }
        backward(roots, seeds);
        std::vector<Tensor> grads;
        for (const Variable& input : again) grads.push_back(input.grad());
        grads.emplace_back();
        return grads;
      });
}

bool is_recomputing() {
  return recomputing;
}

}  // namespace weft::autograd
