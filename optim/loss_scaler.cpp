#include "weft/optim/loss_scaler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "weft/tensor/check.h"

namespace weft::optim {
namespace {

constexpr const char* kScaleName = "scale";
constexpr const char* kGoodStepsName = "good_steps";

void check_options(const LossScalerOptions& options) {
  using Limits = std::numeric_limits<float>;
  WEFT_CHECK(options.min_scale >= static_cast<double>(Limits::min()) &&
                 options.min_scale <= options.initial_scale &&
                 options.initial_scale <= options.max_scale &&
                 options.max_scale <= static_cast<double>(Limits::max()),
             ConfigError,
             "loss scaler: must have {} <= min_scale <= initial_scale <= max_scale <= {}, got {}, "
             "{}, {}",
             Limits::min(), Limits::max(), options.min_scale, options.initial_scale,
             options.max_scale);
  WEFT_CHECK(std::isfinite(options.growth_factor) && options.growth_factor >= 1, ConfigError,
             "loss scaler: growth_factor must be at least 1, got {}", options.growth_factor);
  WEFT_CHECK(options.backoff_factor > 0 && options.backoff_factor < 1, ConfigError,
             "loss scaler: backoff_factor must lie in (0, 1), got {}", options.backoff_factor);
  WEFT_CHECK(options.growth_interval >= 1, ConfigError,
             "loss scaler: growth_interval must be at least 1, got {}", options.growth_interval);
}

/// The entry of this name, of rank 0 and this type.
const Tensor& entry(const StateDict& state, const char* name, DType dtype) {
  const auto found = std::find_if(state.begin(), state.end(),
                                  [&](const NamedTensor& named) { return named.name == name; });
  WEFT_CHECK(found != state.end(), ConfigError, "loss scaler: load_state_dict: '{}' is missing",
             name);
  const Tensor& tensor = found->tensor;
  WEFT_CHECK(tensor.defined() && tensor.rank() == 0, ShapeError,
             "loss scaler: load_state_dict: '{}' must be of rank 0, got {}", name, tensor);
  WEFT_CHECK(tensor.dtype() == dtype, DTypeError,
             "loss scaler: load_state_dict: '{}' must be {}, got {}", name, to_string(dtype),
             tensor);
  return tensor;
}

}  // namespace

LossScaler::LossScaler(const LossScalerOptions& options, Device device) : options_(options) {
  check_options(options);
  scale_tensor_ = empty({}, DType::f32, device);
  inverse_scale_tensor_ = empty({}, DType::f64, device);
  set_scale(options.initial_scale);
}

void LossScaler::set_scale(double scale) {
  scale_ = static_cast<double>(static_cast<float>(scale));  // what the loss is multiplied by
  scale_tensor_.fill_(scale_);
  inverse_scale_tensor_.fill_(1 / scale_);
}

void LossScaler::update(bool grads_are_finite) {
  double scale = scale_;
  if (!grads_are_finite) {
    scale *= options_.backoff_factor;
  } else if (++good_steps_ >= options_.growth_interval) {
    scale *= options_.growth_factor;
  } else {
    return;
  }
  good_steps_ = 0;
  set_scale(std::clamp(scale, options_.min_scale, options_.max_scale));
}

StateDict LossScaler::state_dict() const {
  return {{kScaleName, scalar(scale_, DType::f64)},
          {kGoodStepsName, from_vector<int64_t>({good_steps_}, {})}};
}

void LossScaler::load_state_dict(const StateDict& state) {
  for (const NamedTensor& named : state) {
    WEFT_CHECK(named.name == kScaleName || named.name == kGoodStepsName, ConfigError,
               "loss scaler: load_state_dict: unexpected '{}'", named.name);
  }
  const auto scale = entry(state, kScaleName, DType::f64).item<double>();
  const auto good_steps = entry(state, kGoodStepsName, DType::i64).item<int64_t>();
  WEFT_CHECK(std::isfinite(scale) && scale > 0, ConfigError,
             "loss scaler: load_state_dict: 'scale' is {}, but must be finite and above 0", scale);
  WEFT_CHECK(good_steps >= 0, ConfigError,
             "loss scaler: load_state_dict: 'good_steps' is {}, but must not be negative",
             good_steps);
  good_steps_ = good_steps;
  set_scale(scale);
}

}  // namespace weft::optim
