#pragma once

#include <span>

#include "weft/optim/step_inputs.h"
#include "weft/tensor/stream.h"
#include "weft/tensor/tensor.h"

namespace weft::optim {

/// Step number `step` (from 1) of AdamW, as the kernels read it.
struct AdamWNumbers {
  double decay;           // 1 - lr * weight_decay
  double step_size;       // lr / (1 - beta1^t)
  double inv_sqrt_bias2;  // 1 / sqrt(1 - beta2^t)

  StepNumbers row() const { return {decay, step_size, inv_sqrt_bias2}; }
};

/// One parameter of an AdamW step. All tensors are dense and of one shape; those but `copy` are of
/// f32 or f64, the same type and device for all items of a call.
struct AdamWItem {
  Tensor parameter;
  Tensor grad;
  Tensor exp_avg;
  Tensor exp_avg_sq;
  Tensor copy;      // CUDA and f32 only: of bf16 or f16, gets the new parameter; may be undefined
  int64_t row = 0;  // of AdamWNumbers in StepInputs::numbers
};

struct AdamWParams {
  std::span<AdamWItem> items;
  double beta1;
  double beta2;
  double eps;
  StepInputs inputs;
};

/// g = grad_scale * grad; m = beta1 m + (1 - beta1) g; v = beta2 v + (1 - beta2) g^2;
/// p = decay p - step_size m / (sqrt(v) inv_sqrt_bias2 + eps), for all items in one pass.
void adamw_cpu(const AdamWParams& params, Stream stream);
void adamw_cuda(const AdamWParams& params, Stream stream);

}  // namespace weft::optim
