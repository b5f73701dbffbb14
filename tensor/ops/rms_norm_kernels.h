#pragma once

#include "weft/tensor/stream.h"
#include "weft/tensor/tensor.h"

namespace weft {

// Matrices [rows, E] have dense rows (see as_rows); gain and dgain are of the accumulator type.

struct RmsNormForwardParams {
  Tensor x, residual;  // residual may be undefined
  Tensor gain;
  double eps;
  Tensor sum;  // with residual
  Tensor y, inverse_rms;
};

struct RmsNormBackwardParams {
  Tensor dy, x, gain, inverse_rms;
  Tensor dsum;  // may be undefined
  Tensor dx;
  Tensor dgain;  // may be undefined
};

void rms_norm_forward_cpu(RmsNormForwardParams& params, Stream stream);
void rms_norm_backward_cpu(RmsNormBackwardParams& params, Stream stream);

void rms_norm_forward_cuda(RmsNormForwardParams& params, Stream stream);
void rms_norm_backward_cuda(RmsNormBackwardParams& params, Stream stream);

}  // namespace weft
