#pragma once

#include "weft/tensor/stream.h"
#include "weft/tensor/tensor.h"

namespace weft {

// Tensors are dense: x, dy, y, dx [N, C, inner] of one type; all others [C] of the type of sums.

/// Mean and variance (of the population) of each channel.
void batch_statistics_cpu(const Tensor& x, Tensor& mean, Tensor& variance, Stream stream);

/// y = (x - mean) * rstd * gain + bias.
void batch_normalize_cpu(const Tensor& x, const Tensor& mean, const Tensor& rstd,
                         const Tensor& gain, const Tensor& bias, Tensor& y, Stream stream);

struct BatchNormBackwardParams {
  Tensor dy, x, gain, mean, rstd;
  Tensor dx, dgain, dbias;
  bool constant_statistics = false;
};
void batch_norm_backward_cpu(BatchNormBackwardParams& params, Stream stream);

// On the GPU.
void batch_statistics_cuda(const Tensor& x, Tensor& mean, Tensor& variance, Stream stream);
void batch_normalize_cuda(const Tensor& x, const Tensor& mean, const Tensor& rstd,
                          const Tensor& gain, const Tensor& bias, Tensor& y, Stream stream);
void batch_norm_backward_cuda(BatchNormBackwardParams& params, Stream stream);

}  // namespace weft
