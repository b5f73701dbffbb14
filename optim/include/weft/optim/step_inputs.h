#pragma once

#include <array>

#include "weft/tensor/tensor.h"

namespace weft::optim {

/// Numbers of one parameter that change from step to step; what they mean is the optimizer's.
inline constexpr int kStepNumbers = 4;
using StepNumbers = std::array<double, kStepNumbers>;

/// What the kernels of a step read from the memory of their device. A step that was captured in a
/// graph so takes new values in each replay.
struct StepInputs {
  Tensor numbers;     ///< f64 [parameters, kStepNumbers]
  Tensor grad_scale;  ///< rank 0, f32 or f64; where it is not finite, nothing is changed
};

}  // namespace weft::optim
