#pragma once

#include <optional>

#include "weft/nn/module.h"

namespace weft::nn {

struct BatchNormOptions {
  double eps = 1e-5;
  /// Weight of the newest batch in the running statistics, 0 to 1. Unset: the plain mean over all
  /// batches so far.
  std::optional<double> momentum = 0.1;
  bool affine = true;  ///< learn a gain and a bias for each channel
};

/// Normalises each channel of x [N, C], [N, C, L] or [N, C, H, W] (any rank from 2): y = (x - mean)
/// / sqrt(var + eps) * weight + bias (Ioffe and Szegedy, 2015).
///
/// In training mode mean and variance are those of the batch, of at least 2 elements a channel
/// (ShapeError), and the running statistics are updated; in eval mode the running statistics stand
/// in for them. With affine, parameters `weight` (1) and `bias` (0) [C]. Buffers `running_mean` (0)
/// and `running_var` (1, of the unbiased estimate) [C] and `num_batches_tracked` (i64, rank 0). The
/// running statistics are f32 (f64 for f64) whatever type the parameters are converted to: the
/// first training batch after a conversion to a shorter type widens them again. Throws ConfigError
/// on bad options.
class BatchNorm final : public Layer {
 public:
  explicit BatchNorm(int64_t channels, const BatchNormOptions& options = {});

  Variable forward(const Variable& x) override;
  std::string describe() const override;

  const Tensor& running_mean() const { return running_mean_; }
  const Tensor& running_var() const { return running_var_; }
  int64_t num_batches_tracked() const;

  Variable weight;  ///< undefined without affine, as is bias
  Variable bias;

 private:
  BatchNormOptions options_;
  Tensor& running_mean_;
  Tensor& running_var_;
  Tensor& num_batches_tracked_;
};

}  // namespace weft::nn
