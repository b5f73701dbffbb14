#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "weft/autograd/named_parameter.h"

namespace weft::optim {

using autograd::NamedParameters;

/// L2 norm over the gradients of all parameters together, accumulated in f64 in one pass; 0 without
/// gradients. Infinite or NaN gradients give a norm that is not finite. The bits do not depend on
/// the number of threads.
double grad_norm(const NamedParameters& parameters);
/// The same as a tensor of rank 0, f64, on the gradients' device, without a wait for the device.
Tensor grad_norm_tensor(const NamedParameters& parameters);

/// The factor that brings gradients of this norm down to at most `max_norm`, to be given to
/// Optimizer::step() as grad_scale: min(1, max_norm / norm). Throws ConfigError unless max_norm is
/// above 0 (infinity clips nothing), AutogradError when the norm is not finite: no factor repairs
/// such a gradient.
double clip_scale(double norm, double max_norm);

/// The same on the device of `norm`, without a wait for it: f64 of rank 0. `unscale` is a factor
/// that the gradients are to take before they are clipped (one over a loss scale, or over a number
/// of tokens), while `norm` is of the gradients as they are: unscale min(1, max_norm / (norm
/// unscale)). NaN where the norm is not finite, so that Optimizer::step() changes nothing. norm and
/// unscale are of rank 0, f32 or f64. Throws ConfigError as above, ShapeError, DTypeError.
Tensor clip_scale_tensor(const Tensor& norm, double max_norm, const Tensor& unscale = {});

/// Multiplies all gradients by clip_scale() and returns the norm before. Where the step follows
/// directly, grad_norm() and clip_scale() save this pass. Throws AutogradError with the text of
/// check_finite_grads() when the norm is not finite; gradients are unchanged then.
double clip_grad_norm(const NamedParameters& parameters, double max_norm);

/// Where a gradient went wrong.
struct NonFiniteGrad {
  std::string name;   ///< of the parameter
  int64_t index = 0;  ///< row-major position in the gradient
  double value = 0;   ///< infinity or NaN
};

/// The first infinity or NaN in the order of the parameters, if there is one.
std::optional<NonFiniteGrad> find_non_finite_grad(const NamedParameters& parameters);

/// Throws AutogradError naming the step and what find_non_finite_grad() found, if anything.
void check_finite_grads(const NamedParameters& parameters, int64_t step);

}  // namespace weft::optim
