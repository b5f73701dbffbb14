#pragma once

#include <cstdint>

#include "weft/tensor/device.h"
#include "weft/tensor/named_tensor.h"
#include "weft/tensor/tensor.h"

namespace weft::optim {

struct LossScalerOptions {
  double initial_scale = 65536;
  double growth_factor = 2;  ///< after growth_interval good steps in a row
  double backoff_factor = 0.5;
  int64_t growth_interval = 2000;
  double min_scale = 0x1p-24;
  double max_scale = 0x1p24;
};

/// The factor of the loss that keeps small gradients of f16 from becoming zero, as large as they
/// allow (Micikevicius et al., "Mixed Precision Training", ICLR 2018, section 3.2): halved when
/// gradients overflow, doubled when they have not for a while.
///
///   loss.backward(scaler.scale_tensor());
///   const Tensor norm = grad_norm_tensor(parameters);  // of scaled gradients
///   optimizer.step(lr, clip_scale_tensor(norm, max_norm, scaler.inverse_scale_tensor()));
///   const bool is_finite = std::isfinite(norm.item<double>());
///   if (!is_finite) optimizer.revert_step_count();
///   scaler.update(is_finite);
///
/// The first three lines can be part of a graph: the tensors keep their addresses.
class LossScaler {
 public:
  /// Throws ConfigError on options outside their range.
  explicit LossScaler(const LossScalerOptions& options = {}, Device device = kCpu);

  double scale() const { return scale_; }
  /// Rank 0, f32, on the device. Do not write to it.
  const Tensor& scale_tensor() const { return scale_tensor_; }
  /// One over the scale: rank 0, f64. Do not write to it.
  const Tensor& inverse_scale_tensor() const { return inverse_scale_tensor_; }

  /// To be called after each step with whether its gradients were finite. Does not wait for the
  /// device: work put on the current stream before sees the old scale, later work the new one.
  void update(bool grads_are_finite);

  /// "scale" (f64) and "good_steps" (i64), of rank 0.
  StateDict state_dict() const;
  /// Throws ConfigError on missing or unexpected names, ShapeError, DTypeError, and ConfigError on
  /// values that no scaler has; nothing is changed then.
  void load_state_dict(const StateDict& state);

 private:
  void set_scale(double scale);

  LossScalerOptions options_;
  double scale_ = 0;
  int64_t good_steps_ = 0;  // since the scale changed last
  Tensor scale_tensor_;
  Tensor inverse_scale_tensor_;
};

}  // namespace weft::optim
