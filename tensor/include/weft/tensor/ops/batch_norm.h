#pragma once

#include "weft/tensor/tensor.h"

namespace weft {

// Normalisation of each channel of x [N, C, ...] (Ioffe and Szegedy, "Batch Normalization", 2015,
// algorithm 1): y = (x - mean) * rstd * gain + bias. x is of a floating type; gain and bias [C] are
// f32 or of x's type, undefined for 1 and 0. Statistics [C] are f32 (f64 for f64). Errors:
// ShapeError, DTypeError, DeviceError, ConfigError.

/// What batch_norm_train() gives.
struct BatchNormResult {
  Tensor y;     ///< shape and type of x
  Tensor mean;  ///< of each channel over the batch
  Tensor rstd;  ///< 1 / sqrt(variance + eps), variance of the population
};

/// Gradients of batch normalisation.
struct BatchNormGrads {
  Tensor dx;     ///< shape and type of x
  Tensor dgain;  ///< sums over the batch, f32 (f64 for f64)
  Tensor dbias;  ///< likewise
};

/// Averages over batches, updated by batch_norm_train() and read by batch_norm_eval().
struct RunningStatistics {
  Tensor mean;      ///< [C], f32 (f64 for f64)
  Tensor variance;  ///< [C], of the unbiased estimate
};

/// Normalises with the statistics of this batch, of at least 2 elements a channel. `running`, where
/// defined, becomes (1 - momentum) running + momentum batch.
BatchNormResult batch_norm_train(const Tensor& x, const Tensor& gain, const Tensor& bias,
                                 RunningStatistics running = {}, double momentum = 0.1,
                                 double eps = 1e-5);

/// Normalises with the running statistics.
Tensor batch_norm_eval(const Tensor& x, const Tensor& gain, const Tensor& bias,
                       const RunningStatistics& running, double eps = 1e-5);

/// Gradients given dy = the gradient of y and the statistics that normalised x. With
/// `constant_statistics` (of batch_norm_eval()) none flows through these.
BatchNormGrads batch_norm_backward(const Tensor& dy, const Tensor& x, const Tensor& gain,
                                   const Tensor& mean, const Tensor& rstd,
                                   bool constant_statistics = false);

}  // namespace weft
