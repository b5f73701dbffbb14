#pragma once

#include "weft/optim/optimizer.h"

namespace weft::optim {

struct AdamWOptions {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 0.01;  ///< of groups that set none
};

/// Adam with decoupled weight decay and bias correction (Loshchilov and Hutter, "Decoupled Weight
/// Decay Regularization", ICLR 2019, algorithm 2): p = (1 - lr weight_decay) p - lr m' / (sqrt(v')
/// + eps). Moments have the type of their parameter.
class AdamW : public Optimizer {
 public:
  /// Throws ConfigError on options outside their range.
  explicit AdamW(std::vector<ParameterGroup> groups, AdamWOptions options = {});

 private:
  StepNumbers step_numbers(const ParameterState& state, double lr) const override;
  void update(std::span<const Update> updates, const StepInputs& inputs) override;

  AdamWOptions options_;
};

}  // namespace weft::optim
