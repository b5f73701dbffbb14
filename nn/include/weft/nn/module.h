#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "weft/autograd/named_parameter.h"
#include "weft/autograd/variable.h"
#include "weft/tensor/generator.h"
#include "weft/tensor/named_tensor.h"
#include "weft/tensor/tensor.h"

namespace weft::nn {

using autograd::NamedParameter;
using autograd::NamedParameters;
using autograd::Variable;

/// Base of layers and models: a tree of named parameters (learned), buffers (saved, not learned)
/// and child modules. A module owns its children; it is neither copied nor moved.
class Module {
 public:
  explicit Module(std::string type_name) : type_name_(std::move(type_name)) {}
  virtual ~Module() = default;
  Module(const Module&) = delete;
  Module& operator=(const Module&) = delete;

  const std::string& type_name() const { return type_name_; }
  /// Arguments for to_string(): "in=64, out=128".
  virtual std::string describe() const { return ""; }

  /// All parameters of the tree in order of registration, names dotted. A parameter that several
  /// modules share is listed once, under its first name.
  NamedParameters named_parameters() const;
  std::vector<Variable> parameters() const;
  int64_t num_parameters() const;
  /// Throws ConfigError when there is none of this name.
  Variable parameter(std::string_view name) const;

  /// Parameters and buffers. The tensors are the module's own, not copies.
  StateDict state_dict() const;
  /// Copies values in by name, converting types. With `strict`, missing and unexpected names are a
  /// ConfigError that lists them; a shape that differs is always a ShapeError. Nothing is changed
  /// when it throws.
  void load_state_dict(const StateDict& state, bool strict = true);

  /// Switches dropout, batch statistics and the like for the whole tree.
  void train(bool on = true);
  void eval() { train(false); }
  bool training() const { return training_; }

  void zero_grad();
  /// Converts all floating parameters and buffers. Gradients are dropped.
  void to(DType dtype);
  void to(Device device);

  /// The tree with one line per module.
  std::string to_string() const;

  /// Calls visit(name, module) for this module (name "") and all below it, parents first.
  void visit(const std::function<void(const std::string& name, Module& module)>& visit);

 protected:
  /// Names must be new, not empty and without dots; ConfigError otherwise.
  Variable register_parameter(std::string name, Tensor initial);
  Tensor& register_buffer(std::string name, Tensor initial);
  /// Makes a child of type M and owns it.
  template <class M, class... Args>
  M& register_module(std::string name, Args&&... args) {
    return adopt_module(std::move(name), std::make_unique<M>(std::forward<Args>(args)...));
  }
  template <class M>
  M& adopt_module(std::string name, std::unique_ptr<M> module) {
    M& reference = *module;
    add_child(std::move(name), std::move(module));
    return reference;
  }

 private:
  struct Child {
    std::string name;
    std::unique_ptr<Module> module;
  };
  struct Buffer {
    std::string name;
    std::unique_ptr<Tensor>
        tensor;  // a stable address for the reference that register_buffer gives
  };
  void add_child(std::string name, std::unique_ptr<Module> module);
  void check_new_name(const std::string& name) const;
  void visit_from(const std::string& prefix,
                  const std::function<void(const std::string&, Module&)>& visit);
  void print(std::string& text, const std::string& name, int depth) const;

  std::string type_name_;
  NamedParameters parameters_;
  std::vector<Buffer> buffers_;
  std::vector<Child> children_;
  bool training_ = true;
};

/// A module that maps one variable to one variable, and so can stand in a Sequential.
class Layer : public Module {
 public:
  using Module::Module;
  virtual Variable forward(const Variable& x) = 0;
  Variable operator()(const Variable& x) { return forward(x); }
};

/// Puts a module into eval mode and back into its former mode at the end of the scope.
class EvalModeGuard {
 public:
  explicit EvalModeGuard(Module& module) : module_(module), was_training_(module.training()) {
    module.eval();
  }
  ~EvalModeGuard() { module_.train(was_training_); }
  EvalModeGuard(const EvalModeGuard&) = delete;
  EvalModeGuard& operator=(const EvalModeGuard&) = delete;

 private:
  Module& module_;
  bool was_training_;
};

}  // namespace weft::nn
