#include "weft/optim/adamw.h"

#include <cmath>
#include <utility>

#include "weft/tensor/check.h"
#include "weft/tensor/kernel.h"

#include "adamw_step.h"
#include "kernels/adamw.h"
#include "kernels/op_list.h"

namespace weft::optim {
namespace {

constexpr Kernel<void(const AdamWParams&, Stream)> kAdamW{"adamw", &adamw_cpu,
                                                          WEFT_CUDA_KERNEL(adamw_cuda)};

}  // namespace

void check_options(const char* optimizer, const AdamWOptions& options) {
  WEFT_CHECK(options.beta1 >= 0 && options.beta1 < 1, ConfigError,
             "{}: beta1 must lie in [0, 1), got {}", optimizer, options.beta1);
  WEFT_CHECK(options.beta2 >= 0 && options.beta2 < 1, ConfigError,
             "{}: beta2 must lie in [0, 1), got {}", optimizer, options.beta2);
  WEFT_CHECK(std::isfinite(options.eps) && options.eps > 0, ConfigError,
             "{}: eps must be finite and above 0, got {}", optimizer, options.eps);
  WEFT_CHECK(std::isfinite(options.weight_decay) && options.weight_decay >= 0, ConfigError,
             "{}: weight_decay must be finite and not negative, got {}", optimizer,
             options.weight_decay);
}

StepNumbers adamw_numbers(const AdamWOptions& options, int64_t step, double lr,
                          double weight_decay) {
  const auto t = static_cast<double>(step);
  return AdamWNumbers{.decay = 1 - lr * weight_decay,
                      .step_size = lr / (1 - std::pow(options.beta1, t)),
                      .inv_sqrt_bias2 = 1 / std::sqrt(1 - std::pow(options.beta2, t))}
      .row();
}

void adamw_step(const AdamWOptions& options, std::span<AdamWItem> items, const StepInputs& inputs) {
  if (items.empty()) return;
  const Device device = items.front().parameter.device();
  kAdamW(device)({items, options.beta1, options.beta2, options.eps, inputs},
                 current_stream(device));
}

AdamW::AdamW(std::vector<ParameterGroup> groups, AdamWOptions options)
    : Optimizer("adamw"), options_(options) {
  check_options("adamw", options);
  add_groups(std::move(groups), {"exp_avg", "exp_avg_sq"});
}

StepNumbers AdamW::step_numbers(const ParameterState& state, double lr) const {
  return adamw_numbers(options_, state.prepared, lr_of(state, lr),
                       weight_decay_of(state, options_.weight_decay));
}

void AdamW::update(std::span<const Update> updates, const StepInputs& inputs) {
  std::vector<AdamWItem> items;
  items.reserve(updates.size());
  for (const Update& u : updates) {
    items.push_back({u.parameter, u.grad, u.state->values[0], u.state->values[1], u.copy, u.row});
  }
  adamw_step(options_, items, inputs);
}

void list_adamw_ops(OpTable& table) {
  table.add(kAdamW, kParameterTypes);
}

}  // namespace weft::optim
