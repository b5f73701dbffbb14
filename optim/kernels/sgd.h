#pragma once

#include <span>

#include "weft/optim/step_inputs.h"
#include "weft/tensor/stream.h"
#include "weft/tensor/tensor.h"

namespace weft::optim {

/// The numbers of a step of SGD, as the kernels read them.
struct SgdNumbers {
  double lr;
  double weight_decay;
  double keep;  // momentum; 0 in the first step
  double take;  // 1 - dampening; 1 in the first step

  StepNumbers row() const { return {lr, weight_decay, keep, take}; }
};

/// One parameter of an SGD step. All tensors are dense and of one shape; those but `copy` are of
/// f32 or f64, the same type and device for all items of a call.
struct SgdItem {
  Tensor parameter;
  Tensor grad;
  Tensor momentum_buffer;  // undefined without momentum
  Tensor copy;      // CUDA and f32 only: of bf16 or f16, gets the new parameter; may be undefined
  int64_t row = 0;  // of SgdNumbers in StepInputs::numbers
};

struct SgdParams {
  std::span<SgdItem> items;
  double momentum;
  bool nesterov;
  StepInputs inputs;
};

/// g = grad_scale * grad + weight_decay p; b = keep b + take g;
/// p -= lr (nesterov: g + momentum b; with momentum: b; else: g), for all items in one pass.
void sgd_cpu(const SgdParams& params, Stream stream);
void sgd_cuda(const SgdParams& params, Stream stream);

}  // namespace weft::optim
