#include "weft/autograd/grad_check.h"

#include <algorithm>
#include <cmath>

#include "weft/autograd/node.h"
#include "weft/tensor/check.h"
#include "weft/tensor/generator.h"

namespace weft::autograd {
namespace {

/// Weights in [0.5, 1.5) with both signs: none near zero, so that no output goes unchecked.
Tensor random_weights(const Tensor& like, uint64_t seed, uint64_t subsequence) {
  std::vector<double> values(static_cast<size_t>(like.numel()));
  for (size_t i = 0; i < values.size(); ++i) {
    const auto words = philox4x32(seed, i, subsequence);
    values[i] = (words[1] & 1 ? 1.0 : -1.0) * (0.5 + words[0] * 0x1p-32);
  }
  return from_vector(values, like.shape()).to(like.dtype());
}

double weighted_sum(const std::vector<Variable>& outputs, const std::vector<Tensor>& weights) {
  double total = 0;
  for (size_t i = 0; i < outputs.size(); ++i) {
    if (!is_floating(outputs[i].dtype())) continue;
    const std::vector<double> values = outputs[i].data().to_vector<double>();
    const std::vector<double> factors = weights[i].to_vector<double>();
    for (size_t k = 0; k < values.size(); ++k) total += values[k] * factors[k];
  }
  return total;
}

}  // namespace

GradCheckResult grad_check(
    const std::function<std::vector<Variable>(const std::vector<Variable>&)>& function,
    const std::vector<Variable>& inputs, const GradCheckOptions& options) {
  for (size_t i = 0; i < inputs.size(); ++i) {
    const Variable& input = inputs[i];
    WEFT_CHECK(input.is_leaf() && input.requires_grad() && input.dtype() == DType::f64, ConfigError,
               "grad_check: input {} must be an f64 leaf that requires a gradient, got {}", i,
               input.data());
    WEFT_CHECK(input.data().is_contiguous(), ConfigError, "grad_check: input {} must be contiguous",
               i);
    Variable(input).zero_grad();
  }

  const std::vector<Variable> outputs = function(inputs);
  std::vector<Tensor> weights;
  std::vector<Variable> roots;
  std::vector<Tensor> seeds;
  for (size_t i = 0; i < outputs.size(); ++i) {
    weights.push_back(random_weights(outputs[i].data(), options.seed, i));
    if (!outputs[i].requires_grad()) continue;
    roots.push_back(outputs[i]);
    seeds.push_back(weights.back());
  }
  WEFT_CHECK(!roots.empty(), AutogradError, "grad_check: no output depends on the inputs");
  backward(roots, seeds);

  const NoGradGuard no_grad;
  GradCheckResult result;
  for (size_t i = 0; i < inputs.size(); ++i) {
    Variable input = inputs[i];
    const int64_t count = input.numel();
    const std::vector<double> analytic = input.grad().defined()
                                             ? input.grad().to_vector<double>()
                                             : std::vector<double>(static_cast<size_t>(count), 0.0);
    const int64_t tried = std::min(count, options.max_elements);
    for (int64_t trial = 0; trial < tried; ++trial) {
      const int64_t element = trial * count / tried;
      double& value = input.mutable_data().data<double>()[element];
      const double original = value;
      value = original + options.step;
      const double above = weighted_sum(function(inputs), weights);
      value = original - options.step;
      const double below = weighted_sum(function(inputs), weights);
      value = original;
      const double numeric = (above - below) / (2 * options.step);
      const double got = analytic[static_cast<size_t>(element)];
      const double allowed =
          options.absolute_tolerance +
          options.relative_tolerance * std::max(std::abs(numeric), std::abs(got));
      const double error = std::abs(got - numeric) / allowed;
      if (!(error <= result.worst_error)) {
        result.worst_error = error;
        if (!(error <= 1)) {
          result.ok = false;
          result.message =
              fmt::format("input {} element {}: backward gives {:.12g}, central difference {:.12g}",
                          i, element, got, numeric);
        }
      }
    }
  }
  return result;
}

GradCheckResult grad_check(const std::function<Variable(const std::vector<Variable>&)>& function,
                           const std::vector<Variable>& inputs, const GradCheckOptions& options) {
  return grad_check(
      [&](const std::vector<Variable>& arguments) {
        return std::vector<Variable>{function(arguments)};
      },
      inputs, options);
}

}  // namespace weft::autograd
