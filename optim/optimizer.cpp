#include "weft/optim/optimizer.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "weft/tensor/check.h"
#include "weft/tensor/graph.h"
#include "weft/tensor/pinned.h"

namespace weft::optim {
namespace {

constexpr const char* kStepName = "step";

bool decays(const NamedParameter& named) {
  return named.parameter.rank() >= 2 && named.name.find("embed") == std::string::npos &&
         named.name.find("norm") == std::string::npos;
}

/// The first few names of a list that may be long.
std::string enumerate(const std::vector<std::string>& names) {
  constexpr size_t kShown = 8;
  std::string text;
  for (size_t i = 0; i < std::min(names.size(), kShown); ++i)
    text += (i == 0 ? "" : ", ") + names[i];
  if (names.size() > kShown) text += fmt::format(" and {} more", names.size() - kShown);
  return text;
}

}  // namespace

std::vector<ParameterGroup> default_groups(const NamedParameters& parameters) {
  ParameterGroup decay{.name = "decay"};
  ParameterGroup no_decay{.name = "no_decay", .weight_decay = 0.0};
  for (const NamedParameter& named : parameters)
    (decays(named) ? decay : no_decay).parameters.push_back(named);
  return {std::move(decay), std::move(no_decay)};
}

void Optimizer::add_groups(std::vector<ParameterGroup> groups,
                           const std::vector<std::string>& value_names) {
  std::unordered_set<std::string_view> names;
  std::unordered_map<const autograd::GradMeta*, std::string_view> variables;
  for (const ParameterState& state : states_) {
    names.insert(state.named.name);
    variables.emplace(state.named.parameter.grad_meta().get(), state.named.name);
  }
  std::vector<ParameterState> added;
  for (size_t g = 0; g < groups.size(); ++g) {
    const ParameterGroup& group = groups[g];
    WEFT_CHECK(std::isfinite(group.lr_scale) && group.lr_scale >= 0, ConfigError,
               "{}: lr_scale of group '{}' must be finite and not negative, got {}", name_,
               group.name, group.lr_scale);
    WEFT_CHECK(
        !group.weight_decay || (std::isfinite(*group.weight_decay) && *group.weight_decay >= 0),
        ConfigError, "{}: weight_decay of group '{}' must be finite and not negative, got {}",
        name_, group.name, *group.weight_decay);
    for (const NamedParameter& named : group.parameters) {
      const autograd::Variable& parameter = named.parameter;
      WEFT_CHECK(parameter.defined(), AutogradError, "{}: parameter '{}' is undefined", name_,
                 named.name);
      WEFT_CHECK(names.insert(named.name).second, ConfigError, "{}: two parameters are named '{}'",
                 name_, named.name);
      const auto [known, is_new] =
          variables.emplace(parameter.grad_meta().get(), std::string_view(named.name));
      WEFT_CHECK(is_new, ConfigError,
                 "{}: '{}' and '{}' are the same variable, which would be changed twice a step",
                 name_, known->second, named.name);
      if (!parameter.requires_grad()) continue;
      WEFT_CHECK(parameter.is_leaf(), AutogradError,
                 "{}: '{}' is the result of a function; only leaves are optimized", name_,
                 named.name);
      WEFT_CHECK(parameter.dtype() == DType::f32 || parameter.dtype() == DType::f64, DTypeError,
                 "{}: takes parameters of f32 or f64, got '{}' {}", name_, named.name,
                 parameter.data());
      ParameterState state{.named = named, .group = groups_.size() + g, .step = 0, .values = {}};
      for (size_t i = 0; i < value_names.size(); ++i)
        state.values.push_back(zeros(parameter.shape(), parameter.dtype(), parameter.device()));
      added.push_back(std::move(state));
    }
  }
  std::move(groups.begin(), groups.end(), std::back_inserter(groups_));
  value_names_.resize(groups_.size(), value_names);
  std::move(added.begin(), added.end(), std::back_inserter(states_));
}

double Optimizer::lr_of(const ParameterState& state, double lr) const {
  return lr * groups_[state.group].lr_scale;
}

double Optimizer::weight_decay_of(const ParameterState& state, double weight_decay) const {
  return groups_[state.group].weight_decay.value_or(weight_decay);
}

std::vector<Optimizer::Update> Optimizer::collect_updates() {
  std::vector<Update> updates;
  updates.reserve(states_.size());
  for (size_t i = 0; i < states_.size(); ++i) {
    ParameterState& state = states_[i];
    autograd::Variable& parameter = state.named.parameter;
    const Tensor& grad = parameter.grad();
    if (!grad.defined()) continue;
    const Tensor& data = parameter.data();
    WEFT_CHECK(
        data.shape() == grad.shape() && is_floating(grad.dtype()) && data.device() == grad.device(),
        AutogradError, "{}: the gradient {} of '{}' does not fit its value {}", name_, grad,
        state.named.name, data);
    for (const Tensor& value : state.values) {
      WEFT_CHECK(value.dtype() == data.dtype() && value.device() == data.device(), AutogradError,
                 "{}: '{}' became {} after the optimizer was made with {}", name_, state.named.name,
                 data, value);
    }
    updates.push_back({.state = &state,
                       .parameter = data.contiguous(),
                       .grad = grad.to(data.dtype()).contiguous(),
                       .row = static_cast<int64_t>(i)});
  }
  return updates;
}

/// Tells each update which copies are to be written with it.
LowPrecisionCopies Optimizer::find_copies(std::span<Update> updates) const {
  std::vector<Tensor> weights;
  weights.reserve(updates.size());
  for (const Update& u : updates) weights.push_back(u.parameter);
  LowPrecisionCopies copies(weights);
  for (size_t i = 0; i < updates.size(); ++i) {
    Update& u = updates[i];
    const bool has_kernel = u.parameter.device().is_cuda() && u.parameter.dtype() == DType::f32;
    for (const Tensor& copy : copies.of(i)) {
      if (has_kernel && !u.copy.defined() && size_of(copy.dtype()) == 2) {
        u.copy = copy;
      } else {
        u.converted.push_back(copy);
      }
    }
  }
  return copies;
}

/// The table on this device; made when first asked for, and kept.
Tensor& Optimizer::numbers_on(Device device) {
  const auto found = std::find_if(numbers_.begin(), numbers_.end(), [&](const Tensor& numbers) {
    return numbers.device() == device;
  });
  if (found != numbers_.end()) return *found;
  const Shape shape{static_cast<int64_t>(states_.size()), kStepNumbers};
  return numbers_.emplace_back(empty(shape, DType::f64, device));
}

void Optimizer::step(double lr, double grad_scale) {
  WEFT_CHECK(std::isfinite(grad_scale) && grad_scale >= 0, ConfigError,
             "{}: grad_scale must be finite and not negative, got {}", name_, grad_scale);
  const Device device = states_.empty() ? kCpu : states_.front().named.parameter.device();
  step(lr, scalar(grad_scale, DType::f64, device));
}

void Optimizer::step(double lr, const Tensor& grad_scale) {
  prepare_step(lr);
  apply_step(grad_scale);
}

void Optimizer::prepare_step(double lr) {
  WEFT_CHECK(std::isfinite(lr) && lr >= 0, ConfigError,
             "{}: lr must be finite and not negative, got {}", name_, lr);
  WEFT_CHECK(!is_capturing(), AutogradError,
             "{}: prepare_step() cannot be part of a graph: call it before the capture and before "
             "each replay, and apply_step() in the graph",
             name_);
  for (const ParameterState& state : states_) numbers_on(state.named.parameter.device());
  const bool on_gpu = std::any_of(numbers_.begin(), numbers_.end(),
                                  [](const Tensor& numbers) { return numbers.device().is_cuda(); });
  const Shape shape{static_cast<int64_t>(states_.size()), kStepNumbers};
  // Page-locked memory is used again only when copies from it are done.
  Tensor rows = on_gpu ? empty_pinned(shape, DType::f64) : empty(shape, DType::f64);
  double* row = rows.data<double>();
  for (ParameterState& state : states_) {
    state.prepared = state.step + 1;
    const StepNumbers numbers = step_numbers(state, lr);
    row = std::copy(numbers.begin(), numbers.end(), row);
    if (state.is_captured) state.step = state.prepared;
  }
  for (Tensor& numbers : numbers_) numbers.copy_(rows);
  if (!captured_.empty()) LowPrecisionCopies::mark_replayed(captured_);
  is_prepared_ = true;
}

void Optimizer::apply_step(const Tensor& grad_scale) {
  WEFT_CHECK(grad_scale.defined() && grad_scale.rank() == 0, ShapeError,
             "{}: grad_scale must be of rank 0, got {}", name_, grad_scale);
  WEFT_CHECK(grad_scale.dtype() == DType::f32 || grad_scale.dtype() == DType::f64, DTypeError,
             "{}: grad_scale must be f32 or f64, got {}", name_, grad_scale);
  WEFT_CHECK(is_prepared_, AutogradError, "{}: apply_step() without prepare_step() before it",
             name_);
  std::vector<Update> updates = collect_updates();
  LowPrecisionCopies copies = find_copies(updates);
  is_prepared_ = false;
  for (ParameterState& state : states_) state.step = state.prepared - 1;
  for (Update& u : updates) u.state->step = u.state->prepared;

  // Kernels take one type and device a call; nearly always there is only one.
  const auto same_kind = [](const Update& a, const Update& b) {
    return a.parameter.dtype() == b.parameter.dtype() &&
           a.parameter.device() == b.parameter.device();
  };
  for (auto begin = updates.begin(); begin != updates.end();) {
    const auto end = std::stable_partition(
        begin, updates.end(), [&, first = *begin](const Update& u) { return same_kind(first, u); });
    const Device device = begin->parameter.device();
    update({begin, end}, {.numbers = numbers_on(device), .grad_scale = grad_scale.to(device)});
    begin = end;
  }
  for (Update& u : updates) {
    for (Tensor& copy : u.converted) copy.copy_(u.parameter);
    Tensor& data = u.state->named.parameter.mutable_data();
    if (u.parameter.storage() != data.storage()) data.copy_(u.parameter);
  }
  copies.mark_written();
  if (!is_capturing()) return;
  for (const Update& u : updates) u.state->is_captured = true;
  if (std::find(captured_.begin(), captured_.end(), copies) == captured_.end())
    captured_.push_back(std::move(copies));
}

void Optimizer::revert_step_count() {
  for (ParameterState& state : states_)
    if (state.step == state.prepared && state.step > 0) --state.step;
  is_prepared_ = false;
}

void Optimizer::zero_grad() {
  for (ParameterState& state : states_) state.named.parameter.zero_grad();
}

NamedParameters Optimizer::parameters() const {
  NamedParameters parameters;
  parameters.reserve(states_.size());
  for (const ParameterState& state : states_) parameters.push_back(state.named);
  return parameters;
}

std::string Optimizer::key(const ParameterState& state, const std::string& value_name) const {
  return state.named.name + "/" + value_name;
}

StateDict Optimizer::state_dict() const {
  StateDict dict;
  for (const ParameterState& state : states_) {
    const std::vector<std::string>& names = value_names_[state.group];
    for (size_t i = 0; i < names.size(); ++i)
      dict.push_back({key(state, names[i]), state.values[i]});
    dict.push_back({key(state, kStepName), from_vector<int64_t>({state.step}, {})});
  }
  return dict;
}

void Optimizer::load_state_dict(const StateDict& state) {
  std::map<std::string_view, const Tensor*> given;
  for (const NamedTensor& entry : state) {
    WEFT_CHECK(given.emplace(entry.name, &entry.tensor).second, ConfigError,
               "{}: load_state_dict: two tensors are named '{}'", name_, entry.name);
  }
  const StateDict own = state_dict();
  std::vector<std::string> missing;
  for (const NamedTensor& entry : own) {
    const auto found = given.find(entry.name);
    if (found == given.end()) {
      missing.push_back(entry.name);
      continue;
    }
    const Tensor& tensor = *found->second;
    WEFT_CHECK(tensor.defined() && tensor.shape() == entry.tensor.shape(), ShapeError,
               "{}: load_state_dict: '{}' is {}, but must be {}", name_, entry.name, tensor,
               entry.tensor);
    WEFT_CHECK(tensor.dtype() == entry.tensor.dtype(), DTypeError,
               "{}: load_state_dict: '{}' is {}, but must be {}", name_, entry.name, tensor,
               entry.tensor);
    given.erase(found);
  }
  std::vector<std::string> unexpected;
  for (const auto& [name, tensor] : given) unexpected.emplace_back(name);
  WEFT_CHECK(missing.empty() && unexpected.empty(), ConfigError,
             "{}: load_state_dict: the state is of other parameters or another optimizer; "
             "missing: {}; unexpected: {}",
             name_, missing.empty() ? "none" : enumerate(missing),
             unexpected.empty() ? "none" : enumerate(unexpected));

  for (const NamedTensor& entry : state) given.emplace(entry.name, &entry.tensor);
  for (ParameterState& kept : states_) {
    const int64_t step = given.at(key(kept, kStepName))->item<int64_t>();
    WEFT_CHECK(step >= 0, ConfigError, "{}: load_state_dict: '{}' is {}, but must not be negative",
               name_, key(kept, kStepName), step);
  }
  for (ParameterState& kept : states_) {
    const std::vector<std::string>& names = value_names_[kept.group];
    for (size_t i = 0; i < names.size(); ++i) {
      const Tensor& source = *given.at(key(kept, names[i]));
      kept.values[i].copy_(source.to(kept.values[i].device()));
    }
    kept.step = given.at(key(kept, kStepName))->item<int64_t>();
    kept.prepared = 0;
  }
}

}  // namespace weft::optim
