#pragma once

#include "weft/optim/optimizer.h"

namespace weft::optim {

struct SgdOptions {
  double momentum = 0;
  double dampening = 0;     ///< the momentum takes 1 - dampening of each gradient but the first
  double weight_decay = 0;  ///< of groups that set none; added to the gradient (L2)
  bool nesterov = false;    ///< needs momentum and no dampening
};

/// Stochastic gradient descent: g = grad + weight_decay p; b = momentum b + (1 - dampening) g, with
/// b = g in the first step; p -= lr b, or p -= lr (g + momentum b) with Nesterov's momentum
/// (Sutskever et al., "On the importance of initialization and momentum in deep learning", ICML
/// 2013).
class Sgd : public Optimizer {
 public:
  /// Throws ConfigError on options outside their range.
  explicit Sgd(std::vector<ParameterGroup> groups, SgdOptions options = {});

 private:
  StepNumbers step_numbers(const ParameterState& state, double lr) const override;
  void update(std::span<const Update> updates, const StepInputs& inputs) override;

  SgdOptions options_;
};

}  // namespace weft::optim
