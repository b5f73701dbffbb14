#include "weft/optim/muon.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <map>
#include <utility>

#include "weft/tensor/check.h"
#include "weft/tensor/kernel.h"
#include "weft/tensor/ops/matmul.h"

#include "adamw_step.h"
#include "kernels/muon.h"
#include "kernels/op_list.h"
#include "newton_schulz.h"

namespace weft::optim {
namespace {

constexpr Kernel<void(const MuonParams&, Tensor&, Stream)> kMomentum{
    "muon", &muon_momentum_cpu, WEFT_CUDA_KERNEL(muon_momentum_cuda)};
constexpr Kernel<void(const MuonParams&, const Tensor&, Tensor&, Stream)> kDirection{
    "muon", &muon_direction_cpu, WEFT_CUDA_KERNEL(muon_direction_cuda)};
constexpr Kernel<void(const MuonParams&, const Tensor&, Stream)> kApply{
    "muon", &muon_apply_cpu, WEFT_CUDA_KERNEL(muon_apply_cuda)};

/// Matrices of one shape go through the products together, up to this many elements at a time.
constexpr int64_t kBatchElements = int64_t{1} << 23;

bool is_hidden_matrix(const NamedParameter& named) {
  if (named.parameter.rank() != 2) return false;
  for (const char* part : {"embed", "norm", "lm_head"})
    if (named.name.find(part) != std::string::npos) return false;
  return true;
}

DType default_product_dtype(DType parameter, Device device) {
  return parameter == DType::f32 && has_fast_bf16_matmul(device) ? DType::bf16 : parameter;
}

double scale_of(MuonScale scale, const Shape& shape) {
  const auto rows = static_cast<double>(shape[0]);
  const auto columns = static_cast<double>(shape[1]);
  return scale == MuonScale::spectral ? std::sqrt(std::max(1.0, rows / columns))
                                      : 0.2 * std::sqrt(std::max(rows, columns));
}

}  // namespace

MuonGroups split_for_muon(const NamedParameters& parameters, double adamw_lr_scale) {
  ParameterGroup matrices{.name = "matrices"};
  NamedParameters others;
  for (const NamedParameter& named : parameters)
    (is_hidden_matrix(named) ? matrices.parameters : others).push_back(named);
  MuonGroups groups{.matrices = {std::move(matrices)}, .others = default_groups(others)};
  for (ParameterGroup& group : groups.others) group.lr_scale = adamw_lr_scale;
  return groups;
}

Muon::Muon(MuonGroups groups, MuonOptions options)
    : Optimizer("muon"), options_(options), num_matrix_groups_(groups.matrices.size()) {
  WEFT_CHECK(options.momentum >= 0 && options.momentum < 1, ConfigError,
             "muon: momentum must lie in [0, 1), got {}", options.momentum);
  WEFT_CHECK(options.newton_schulz_steps >= 1 && options.newton_schulz_steps <= 100, ConfigError,
             "muon: newton_schulz_steps must lie in [1, 100], got {}", options.newton_schulz_steps);
  WEFT_CHECK(std::isfinite(options.weight_decay) && options.weight_decay >= 0, ConfigError,
             "muon: weight_decay must be finite and not negative, got {}", options.weight_decay);
  WEFT_CHECK(!options.product_dtype || *options.product_dtype == DType::bf16 ||
                 *options.product_dtype == DType::f32 || *options.product_dtype == DType::f64,
             ConfigError, "muon: product_dtype must be bf16, f32 or f64, got {}",
             *options.product_dtype);
  check_options("muon", options.adamw);
  for (const ParameterGroup& group : groups.matrices) {
    for (const NamedParameter& named : group.parameters) {
      WEFT_CHECK(!named.parameter.defined() || named.parameter.rank() == 2, ShapeError,
                 "muon: orthogonalizes matrices, got '{}' {} in group '{}'", named.name,
                 named.parameter.data(), group.name);
    }
  }
  add_groups(std::move(groups.matrices), {"momentum_buffer"});
  add_groups(std::move(groups.others), {"exp_avg", "exp_avg_sq"});
}

StepNumbers Muon::step_numbers(const ParameterState& state, double lr) const {
  const double rate = lr_of(state, lr);
  if (!is_matrix(state)) {
    return adamw_numbers(options_.adamw, state.prepared, rate,
                         weight_decay_of(state, options_.adamw.weight_decay));
  }
  return MuonNumbers{.decay = 1 - rate * weight_decay_of(state, options_.weight_decay),
                     .step_size = rate * scale_of(options_.scale, state.named.parameter.shape())}
      .row();
}

void Muon::update(std::span<const Update> updates, const StepInputs& inputs) {
  std::vector<const Update*> matrices;
  std::vector<AdamWItem> others;
  for (const Update& u : updates) {
    if (is_matrix(*u.state)) {
      if (u.parameter.numel() > 0) matrices.push_back(&u);
    } else {
      others.push_back(
          {u.parameter, u.grad, u.state->values[0], u.state->values[1], u.copy, u.row});
    }
  }
  if (!matrices.empty()) update_matrices(std::move(matrices), inputs);
  adamw_step(options_.adamw, others, inputs);
}

void Muon::update_matrices(std::vector<const Update*> updates, const StepInputs& inputs) {
  // Equal shapes side by side, otherwise in the order of the parameters.
  const auto shape_of = [](const Update* u) {
    return std::pair(u->parameter.size(0), u->parameter.size(1));
  };
  std::stable_sort(updates.begin(), updates.end(),
                   [&](const Update* a, const Update* b) { return shape_of(a) < shape_of(b); });
  std::vector<MuonItem> items;
  items.reserve(updates.size());
  for (const Update* u : updates)
    items.push_back({u->parameter, u->grad, u->state->values[0], u->copy, u->row});
  const Device device = items.front().parameter.device();
  const DType dtype = options_.product_dtype.value_or(
      default_product_dtype(items.front().parameter.dtype(), device));
  const Stream stream = current_stream(device);
  const auto params_of = [&](std::span<MuonItem> some) {
    return MuonParams{some, options_.momentum, options_.nesterov, inputs};
  };
  Tensor square_sums = empty({static_cast<int64_t>(items.size())}, DType::f64, device);
  kMomentum(device)(params_of(items), square_sums, stream);

  for (auto begin = items.begin(); begin != items.end();) {
    const Shape& shape = begin->parameter.shape();  // [rows, columns]
    const int64_t most = std::max<int64_t>(1, kBatchElements / shape.numel());
    const auto end =
        std::find_if(begin, begin + std::min<int64_t>(most, items.end() - begin),
                     [&](const MuonItem& item) { return item.parameter.shape() != shape; });
    const MuonParams params = params_of({begin, end});
    const int64_t first = begin - items.begin();
    const int64_t count = end - begin;
    Tensor stacked = empty({count, shape[0], shape[1]}, dtype, device);
    kDirection(device)(params, square_sums.slice(0, first, first + count), stacked, stream);
    kApply(device)(params, newton_schulz(std::move(stacked), options_.newton_schulz_steps), stream);
    begin = end;
  }
}

void list_muon_ops(OpTable& table) {
  // The three parts of a step.
  table.add(kMomentum, kParameterTypes, {"muon_momentum"});
  table.add(kDirection, kParameterTypes, {"muon_direction"});
  table.add(kApply, kParameterTypes, {"muon_apply"});
}

}  // namespace weft::optim
