#include "weft/optim/sgd.h"

#include <cmath>
#include <utility>

#include "weft/tensor/check.h"
#include "weft/tensor/kernel.h"

#include "kernels/op_list.h"
#include "kernels/sgd.h"

namespace weft::optim {
namespace {

constexpr Kernel<void(const SgdParams&, Stream)> kSgd{"sgd", &sgd_cpu, WEFT_CUDA_KERNEL(sgd_cuda)};

}  // namespace

Sgd::Sgd(std::vector<ParameterGroup> groups, SgdOptions options)
    : Optimizer("sgd"), options_(options) {
  WEFT_CHECK(options.momentum >= 0 && options.momentum < 1, ConfigError,
             "sgd: momentum must lie in [0, 1), got {}", options.momentum);
  WEFT_CHECK(options.dampening >= 0 && options.dampening < 1, ConfigError,
             "sgd: dampening must lie in [0, 1), got {}", options.dampening);
  WEFT_CHECK(std::isfinite(options.weight_decay) && options.weight_decay >= 0, ConfigError,
             "sgd: weight_decay must be finite and not negative, got {}", options.weight_decay);
  WEFT_CHECK(!options.nesterov || (options.momentum > 0 && options.dampening == 0), ConfigError,
             "sgd: nesterov needs momentum above 0 and dampening 0, got momentum {}, dampening {}",
             options.momentum, options.dampening);
  add_groups(std::move(groups), options.momentum > 0 ? std::vector<std::string>{"momentum_buffer"}
                                                     : std::vector<std::string>{});
}

StepNumbers Sgd::step_numbers(const ParameterState& state, double lr) const {
  const bool first = state.prepared == 1;
  return SgdNumbers{.lr = lr_of(state, lr),
                    .weight_decay = weight_decay_of(state, options_.weight_decay),
                    .keep = first ? 0 : options_.momentum,
                    .take = first ? 1 : 1 - options_.dampening}
      .row();
}

void Sgd::update(std::span<const Update> updates, const StepInputs& inputs) {
  std::vector<SgdItem> items;
  items.reserve(updates.size());
  for (const Update& u : updates) {
    items.push_back({u.parameter, u.grad, options_.momentum > 0 ? u.state->values[0] : Tensor(),
                     u.copy, u.row});
  }
  const Device device = updates.front().parameter.device();
  kSgd(device)({items, options_.momentum, options_.nesterov, inputs}, current_stream(device));
}

void list_sgd_ops(OpTable& table) {
  table.add(kSgd, kParameterTypes);
}

}  // namespace weft::optim
