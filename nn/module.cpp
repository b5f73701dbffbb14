#include "weft/nn/module.h"

#include <algorithm>
#include <unordered_map>
#include <unordered_set>

#include "weft/tensor/check.h"

namespace weft::nn {
namespace {

std::string join(const std::string& prefix, const std::string& name) {
  return prefix.empty() ? name : prefix + "." + name;
}

/// Converts parameters so that those which are parts of one storage, as the projections that one
/// product computes together, are parts of one storage afterwards.
class ParameterConversion {
 public:
  explicit ParameterConversion(std::function<Tensor(const Tensor&)> convert)
      : convert_(std::move(convert)) {}

  Tensor operator()(const Tensor& data) {
    const Storage& storage = *data.storage();
    const auto whole = static_cast<int64_t>(storage.bytes() / size_of(data.dtype()));
    if (data.numel() == whole && data.is_contiguous()) return convert_(data);
    const auto [known, is_new] = converted_.try_emplace(data.storage(), Tensor());
    if (is_new) {
      const Shape shape{whole};
      known->second =
          convert_(Tensor(data.storage(), {shape, contiguous_strides(shape), 0}, data.dtype()));
    }
    const Tensor& flat = known->second;
    return Tensor(flat.storage(), data.layout(), flat.dtype());
  }

 private:
  std::function<Tensor(const Tensor&)> convert_;
  std::unordered_map<std::shared_ptr<Storage>, Tensor> converted_;
};

}  // namespace

void Module::check_new_name(const std::string& name) const {
  WEFT_CHECK(!name.empty() && name.find('.') == std::string::npos, ConfigError,
             "{}: '{}' is not a name; it must not be empty or hold a dot", type_name_, name);
  const auto taken = [&](const auto& list) {
    return std::any_of(list.begin(), list.end(),
                       [&](const auto& entry) { return entry.name == name; });
  };
  WEFT_CHECK(!taken(parameters_) && !taken(buffers_) && !taken(children_), ConfigError,
             "{}: the name '{}' is taken", type_name_, name);
}

Variable Module::register_parameter(std::string name, Tensor initial) {
  check_new_name(name);
  Variable parameter(std::move(initial), /*requires_grad=*/true);
  parameter.grad_meta()->name = name;
  parameters_.push_back({std::move(name), parameter});
  return parameter;
}

Tensor& Module::register_buffer(std::string name, Tensor initial) {
  check_new_name(name);
  buffers_.push_back({std::move(name), std::make_unique<Tensor>(std::move(initial))});
  return *buffers_.back().tensor;
}

void Module::add_child(std::string name, std::unique_ptr<Module> module) {
  check_new_name(name);
  WEFT_CHECK(module != nullptr, ConfigError, "{}: module '{}' is null", type_name_, name);
  children_.push_back({std::move(name), std::move(module)});
}

void Module::visit(const std::function<void(const std::string&, Module&)>& visit) {
  visit_from("", visit);
}

void Module::visit_from(const std::string& prefix,
                        const std::function<void(const std::string&, Module&)>& visit) {
  visit(prefix, *this);
  for (Child& child : children_) child.module->visit_from(join(prefix, child.name), visit);
}

NamedParameters Module::named_parameters() const {
  NamedParameters all;
  std::unordered_set<const void*> seen;
  const_cast<Module*>(this)->visit([&](const std::string& prefix, Module& module) {
    for (const NamedParameter& own : module.parameters_) {
      if (seen.insert(own.parameter.grad_meta().get()).second)
        all.push_back({join(prefix, own.name), own.parameter});
    }
  });
  return all;
}

std::vector<Variable> Module::parameters() const {
  std::vector<Variable> all;
  for (NamedParameter& named : named_parameters()) all.push_back(std::move(named.parameter));
  return all;
}

int64_t Module::num_parameters() const {
  int64_t count = 0;
  for (const NamedParameter& named : named_parameters()) count += named.parameter.numel();
  return count;
}

Variable Module::parameter(std::string_view name) const {
  for (const NamedParameter& named : named_parameters()) {
    if (named.name == name) return named.parameter;
  }
  throw_error<ConfigError>("{}: there is no parameter '{}'", type_name_, name);
}

StateDict Module::state_dict() const {
  StateDict state;
  std::unordered_set<const void*> seen;
  const_cast<Module*>(this)->visit([&](const std::string& prefix, Module& module) {
    for (const NamedParameter& own : module.parameters_) {
      if (seen.insert(own.parameter.grad_meta().get()).second) {
        state.push_back({join(prefix, own.name), own.parameter.data()});
      }
    }
    for (const Buffer& own : module.buffers_)
      state.push_back({join(prefix, own.name), *own.tensor});
  });
  return state;
}

void Module::load_state_dict(const StateDict& state, bool strict) {
  StateDict own = state_dict();
  std::unordered_map<std::string_view, Tensor*> targets;
  for (NamedTensor& entry : own) targets.emplace(entry.name, &entry.tensor);

  std::vector<std::pair<Tensor*, const Tensor*>> copies;
  std::vector<std::string> missing;
  std::vector<std::string> unexpected;
  std::unordered_set<std::string_view> given;
  for (const NamedTensor& entry : state) {
    WEFT_CHECK(given.insert(entry.name).second, ConfigError, "load_state_dict: '{}' is given twice",
               entry.name);
    const auto target = targets.find(entry.name);
    if (target == targets.end()) {
      unexpected.push_back(entry.name);
      continue;
    }
    WEFT_CHECK(entry.tensor.defined() && entry.tensor.shape() == target->second->shape(),
               ShapeError, "load_state_dict: '{}' has {}, the module wants {}", entry.name,
               entry.tensor, *target->second);
    copies.emplace_back(target->second, &entry.tensor);
  }
  for (const NamedTensor& entry : own) {
    if (!given.contains(entry.name)) missing.push_back(entry.name);
  }
  WEFT_CHECK(!strict || (missing.empty() && unexpected.empty()), ConfigError,
             "load_state_dict: missing [{}], unexpected [{}]", fmt::join(missing, ", "),
             fmt::join(unexpected, ", "));
  for (const auto& [target, source] : copies) target->copy_(source->to(target->device()));
}

void Module::train(bool on) {
  visit([on](const std::string&, Module& module) { module.training_ = on; });
}

void Module::zero_grad() {
  for (Variable& parameter : parameters()) parameter.zero_grad();
}

void Module::to(DType dtype) {
  WEFT_CHECK(is_floating(dtype), DTypeError, "to: parameters must be of a floating type, got {}",
             dtype);
  ParameterConversion convert([dtype](const Tensor& data) { return data.to(dtype); });
  visit([&](const std::string&, Module& module) {
    for (NamedParameter& own : module.parameters_) {
      own.parameter.zero_grad();
      if (own.parameter.dtype() != dtype) own.parameter.set_data(convert(own.parameter.data()));
    }
    for (Buffer& own : module.buffers_) {
      if (is_floating(own.tensor->dtype())) *own.tensor = own.tensor->to(dtype);
    }
  });
}

void Module::to(Device device) {
  ParameterConversion convert([device](const Tensor& data) { return data.to(device); });
  visit([&](const std::string&, Module& module) {
    for (NamedParameter& own : module.parameters_) {
      own.parameter.zero_grad();
      if (own.parameter.device() != device) own.parameter.set_data(convert(own.parameter.data()));
    }
    for (Buffer& own : module.buffers_) *own.tensor = own.tensor->to(device);
  });
}

std::string Module::to_string() const {
  std::string text;
  print(text, "", 0);
  return text;
}

void Module::print(std::string& text, const std::string& name, int depth) const {
  text += std::string(static_cast<size_t>(2 * depth), ' ');
  if (!name.empty()) text += "(" + name + ") ";
  text += type_name_ + "(" + describe() + ")\n";
  for (const Child& child : children_) child.module->print(text, child.name, depth + 1);
}

}  // namespace weft::nn
