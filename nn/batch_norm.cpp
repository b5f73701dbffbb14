#include "weft/nn/batch_norm.h"

#include "weft/autograd/checkpoint.h"
#include "weft/autograd/functions/batch_norm.h"
#include "weft/tensor/check.h"
#include "weft/tensor/ops/arithmetic.h"

namespace weft::nn {
namespace {

int64_t checked_channels(int64_t channels) {
  WEFT_CHECK(channels >= 1, ConfigError, "BatchNorm: channels must be at least 1, got {}",
             channels);
  return channels;
}

DType statistics_type(DType dtype) {
  return dtype == DType::f64 ? DType::f64 : DType::f32;
}

}  // namespace

BatchNorm::BatchNorm(int64_t channels, const BatchNormOptions& options)
    : Layer("BatchNorm"),
      options_(options),
      running_mean_(register_buffer("running_mean", zeros({checked_channels(channels)}))),
      running_var_(register_buffer("running_var", ones({channels}))),
      num_batches_tracked_(register_buffer("num_batches_tracked", zeros({}, DType::i64))) {
  WEFT_CHECK(options.eps >= 0, ConfigError, "BatchNorm: eps must not be negative, got {}",
             options.eps);
  WEFT_CHECK(!options.momentum || (*options.momentum >= 0 && *options.momentum <= 1), ConfigError,
             "BatchNorm: momentum must be 0 to 1, got {}", *options.momentum);
  if (options.affine) {
    weight = register_parameter("weight", ones({channels}));
    bias = register_parameter("bias", zeros({channels}));
  }
}

Variable BatchNorm::forward(const Variable& x) {
  const DType dtype = statistics_type(x.dtype());
  const RunningStatistics running{running_mean_.to(dtype), running_var_.to(dtype)};
  if (!training()) return autograd::batch_norm_eval(x, weight, bias, running, options_.eps);
  // The first run of a checkpointed function has counted this batch.
  if (autograd::is_recomputing())
    return autograd::batch_norm_train(x, weight, bias, {}, 0, options_.eps);
  const double momentum =
      options_.momentum.value_or(1.0 / (static_cast<double>(num_batches_tracked()) + 1));
  const Variable y = autograd::batch_norm_train(x, weight, bias, running, momentum, options_.eps);
  running_mean_ = running.mean;
  running_var_ = running.variance;
  add_(num_batches_tracked_, 1);
  return y;
}

int64_t BatchNorm::num_batches_tracked() const {
  return num_batches_tracked_.item<int64_t>();
}

std::string BatchNorm::describe() const {
  return fmt::format(
      "channels={}, eps={}, momentum={}, affine={}", running_mean_.size(0), options_.eps,
      options_.momentum ? fmt::format("{}", *options_.momentum) : "none", weight.defined());
}

}  // namespace weft::nn
