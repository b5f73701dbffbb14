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

AdamWItem make_adamw_item(const AdamWOptions& options, const Tensor& parameter, const Tensor& grad,
                          std::span<const Tensor> moments, int64_t step, double lr,
                          double weight_decay) {
  const auto t = static_cast<double>(step);
  return {.parameter = parameter,
          .grad = grad,
          .exp_avg = moments[0],
          .exp_avg_sq = moments[1],
          .decay = 1 - lr * weight_decay,
          .step_size = lr / (1 - std::pow(options.beta1, t)),
          .inv_sqrt_bias2 = 1 / std::sqrt(1 - std::pow(options.beta2, t))};
}

void adamw_step(const AdamWOptions& options, std::span<AdamWItem> items, double grad_scale) {
  if (items.empty()) return;
  const Device device = items.front().parameter.device();
  kAdamW(device)({items, options.beta1, options.beta2, options.eps, grad_scale},
                 current_stream(device));
}

AdamW::AdamW(std::vector<ParameterGroup> groups, AdamWOptions options)
    : Optimizer("adamw"), options_(options) {
  check_options("adamw", options);
  add_groups(std::move(groups), {"exp_avg", "exp_avg_sq"});
}

void AdamW::update(std::span<const Update> updates, double lr, double grad_scale) {
  std::vector<AdamWItem> items;
  items.reserve(updates.size());
  for (const Update& u : updates) {
    items.push_back(make_adamw_item(options_, u.parameter, u.grad, u.state->values, u.state->step,
                                    lr_of(*u.state, lr),
                                    weight_decay_of(*u.state, options_.weight_decay)));
  }
  adamw_step(options_, items, grad_scale);
}

void list_adamw_ops(OpTable& table) {
  table.add(kAdamW, kParameterTypes);
}

}  // namespace weft::optim
