#pragma once

#include <span>

#include "weft/tensor/stream.h"
#include "weft/tensor/tensor.h"

namespace weft::optim {

/// One parameter of an AdamW step. All tensors are dense, of one shape, f32 or f64; the type and
/// device are the same for all items of a call.
struct AdamWItem {
  Tensor parameter;
  Tensor grad;
  Tensor exp_avg;
  Tensor exp_avg_sq;
  double decay;           // 1 - lr * weight_decay
  double step_size;       // lr / (1 - beta1^t)
  double inv_sqrt_bias2;  // 1 / sqrt(1 - beta2^t)
};

struct AdamWParams {
  std::span<AdamWItem> items;
  double beta1;
  double beta2;
  double eps;
  double grad_scale;
};

/// g = grad_scale * grad; m = beta1 m + (1 - beta1) g; v = beta2 v + (1 - beta2) g^2;
/// p = decay p - step_size m / (sqrt(v) inv_sqrt_bias2 + eps), for all items in one pass.
void adamw_cpu(const AdamWParams& params, Stream stream);
void adamw_cuda(const AdamWParams& params, Stream stream);

}  // namespace weft::optim
