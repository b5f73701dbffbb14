#pragma once

#include "weft/optim/step_inputs.h"

namespace weft::optim {

/// The factor of the gradients, in the type of the parameters.
template <class T>
T grad_scale_of(const StepInputs& inputs) {
  const Tensor& scale = inputs.grad_scale;
  return static_cast<T>(scale.dtype() == DType::f64 ? *scale.data<double>() : *scale.data<float>());
}

inline const double* numbers_of(const StepInputs& inputs, int64_t row) {
  return inputs.numbers.data<double>() + row * kStepNumbers;
}

}  // namespace weft::optim
