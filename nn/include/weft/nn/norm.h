#pragma once

#include "weft/nn/module.h"

namespace weft::nn {

/// y = x / sqrt(mean(x^2) + eps) * weight over the last axis (Zhang and Sennrich, 2019). Parameter
/// `weight` [features], initially 1.
class RMSNorm final : public Layer {
 public:
  explicit RMSNorm(int64_t features, double eps = 1e-6);

  Variable forward(const Variable& x) override;

  /// The pre-norm residual pattern in one pass over memory: sum = x + residual, normed =
  /// forward(sum). Without a residual (undefined) sum = x. With `recompute_normed` backward
  /// computes `normed` again rather than have its readers keep it.
  struct WithResidual {
    Variable sum;
    Variable normed;
  };
  WithResidual forward_with_residual(const Variable& x, const Variable& residual,
                                     bool recompute_normed = false);
  double eps() const { return eps_; }
  std::string describe() const override;

  Variable weight;

 private:
  double eps_;
};

/// y = (x - mean) / sqrt(var + eps) * weight + bias over the last axis (Ba et al., 2016).
/// Parameters `weight` (1) and `bias` (0) [features].
class LayerNorm final : public Layer {
 public:
  explicit LayerNorm(int64_t features, double eps = 1e-5);

  Variable forward(const Variable& x) override;
  std::string describe() const override;

  Variable weight;
  Variable bias;

 private:
  double eps_;
};

}  // namespace weft::nn
