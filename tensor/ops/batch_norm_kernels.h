#pragma once

#include "weft/tensor/ops/batch_norm.h"
#include "weft/tensor/stream.h"
#include "weft/tensor/tensor.h"

namespace weft {

// Tensors are dense: x, dy, y, dx [N, C, inner] of one type; all others [C] of the type of sums.

struct BatchNormTrainParams {
  Tensor x, gain, bias;
  RunningStatistics running;  // as batch_norm_train() takes it; may have any strides
  double momentum = 0, eps = 0;
  Tensor y, mean, rstd;
};
void batch_norm_train_cpu(BatchNormTrainParams& params, Stream stream);

struct BatchNormEvalParams {
  Tensor x, gain, bias, mean, variance;
  double eps = 0;
  Tensor y;
};
void batch_norm_eval_cpu(BatchNormEvalParams& params, Stream stream);

struct BatchNormBackwardParams {
  Tensor dy, x, gain, mean, rstd;
  Tensor dx, dgain, dbias;
  bool constant_statistics = false;
};
void batch_norm_backward_cpu(BatchNormBackwardParams& params, Stream stream);

/// 1 / sqrt(variance + eps).
Tensor inverse_deviation(const Tensor& variance, double eps);
/// What follows from the mean and the variance of the population: params.rstd and the running
/// averages.
void finish_statistics(BatchNormTrainParams& params, const Tensor& variance);

// On the GPU.
void batch_norm_train_cuda(BatchNormTrainParams& params, Stream stream);
void batch_norm_eval_cuda(BatchNormEvalParams& params, Stream stream);
void batch_norm_backward_cuda(BatchNormBackwardParams& params, Stream stream);

}  // namespace weft
