#pragma once

#include <span>

#include "weft/tensor/stream.h"
#include "weft/tensor/tensor.h"

namespace weft::optim {

/// One parameter of an SGD step. All tensors are dense, of one shape, f32 or f64; the type and
/// device are the same for all items of a call.
struct SgdItem {
  Tensor parameter;
  Tensor grad;
  Tensor momentum_buffer;  // undefined without momentum
  double lr;
  double weight_decay;
  double keep;  // momentum; 0 in the first step
  double take;  // 1 - dampening; 1 in the first step
};

struct SgdParams {
  std::span<SgdItem> items;
  double momentum;
  bool nesterov;
  double grad_scale;
};

/// g = grad_scale * grad + weight_decay p; b = keep b + take g;
/// p -= lr (nesterov: g + momentum b; with momentum: b; else: g), for all items in one pass.
void sgd_cpu(const SgdParams& params, Stream stream);
void sgd_cuda(const SgdParams& params, Stream stream);

}  // namespace weft::optim
