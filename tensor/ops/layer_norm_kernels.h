#pragma once

#include "weft/tensor/stream.h"
#include "weft/tensor/tensor.h"

namespace weft {

// Matrices [rows, E] have dense rows (see as_rows); gain, bias and their gradients are of the
// accumulator type.

struct LayerNormForwardParams {
  Tensor x, gain;
  Tensor bias;  // may be undefined
  double eps;
  Tensor y, mean, rstd;
};

struct LayerNormBackwardParams {
  Tensor dy, x, gain, mean, rstd;
  Tensor dx;
  Tensor dgain_dbias;  // [2, E]; may be undefined
};

void layer_norm_forward_cpu(LayerNormForwardParams& params, Stream stream);
void layer_norm_backward_cpu(LayerNormBackwardParams& params, Stream stream);

void layer_norm_forward_cuda(LayerNormForwardParams& params, Stream stream);
void layer_norm_backward_cuda(LayerNormBackwardParams& params, Stream stream);

}  // namespace weft
