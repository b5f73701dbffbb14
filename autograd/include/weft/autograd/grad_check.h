#pragma once

#include <functional>
#include <string>
#include <vector>

#include "weft/autograd/variable.h"

namespace weft::autograd {

struct GradCheckOptions {
  double step = 1e-5;                ///< h of the central difference (f(x+h) - f(x-h)) / 2h
  double relative_tolerance = 1e-6;  ///< against max(|analytic|, |numeric|)
  double absolute_tolerance = 1e-8;
  int64_t max_elements = 200;  ///< elements tried per input, spread evenly; all of a smaller one
  uint64_t seed = 1;           ///< of the random weights that turn the outputs into one number
};

struct GradCheckResult {
  bool ok = true;
  double worst_error =
      0;  ///< largest |analytic - numeric| / (absolute_tolerance + relative_tolerance * magnitude)
  std::string
      message;  ///< names the input, its element and both values where they differ; empty when ok

  explicit operator bool() const { return ok; }
};

/// Compares the gradients that backward() gives for `inputs` with central differences of
/// L = sum over outputs of <output, R>, R random. `function` is called many times and must give the
/// same result for the same inputs. Inputs must be f64 leaves that require gradients; ConfigError
/// otherwise.
GradCheckResult grad_check(
    const std::function<std::vector<Variable>(const std::vector<Variable>&)>& function,
    const std::vector<Variable>& inputs, const GradCheckOptions& options = {});

/// The same for a function of one output.
GradCheckResult grad_check(const std::function<Variable(const std::vector<Variable>&)>& function,
                           const std::vector<Variable>& inputs,
                           const GradCheckOptions& options = {});

}  // namespace weft::autograd
