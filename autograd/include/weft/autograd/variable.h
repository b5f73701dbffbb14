#pragma once

#include <cstdint>
#include <functional>
#include <iosfwd>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "weft/tensor/tensor.h"

namespace weft::autograd {

struct Node;

/// Changes or observes a gradient; an undefined result means "unchanged".
using GradHook = std::function<Tensor(const Tensor& grad)>;

/// What autograd knows of a variable, apart from its value: graph edges point here, so that the
/// graph keeps no value alive that no backward needs.
struct GradMeta {
  Tensor grad;                     // accumulated here for leaves, and where retained
  std::shared_ptr<Node> producer;  // null for leaves
  int output_index = 0;            // which output of the producer
  bool requires_grad = false;
  bool retain_grad = false;
  std::vector<GradHook> hooks;
  Shape shape;
  DType dtype = DType::f32;
  std::string name;
};

/// A tensor that remembers how it was computed: a shared handle of a value, its gradient and the
/// node that made it. Functions of variables (weft/autograd/functions/) record themselves while
/// gradients are enabled and an input asks for one; backward() then walks the record. Copies of the
/// handle are the same variable.
class Variable {
 public:
  Variable() = default;
  explicit Variable(Tensor data, bool requires_grad = false);

  bool defined() const { return impl_ != nullptr; }
  const Tensor& data() const;
  /// For writes in place (optimizers, initialisers). Does not record; saved tensors notice the
  /// change.
  Tensor& mutable_data();
  /// Replaces the value of a leaf, for example by one of another type. Throws AutogradError on a
  /// non-leaf.
  void set_data(Tensor data);

  const Shape& shape() const { return data().shape(); }
  int64_t size(int axis) const { return data().size(axis); }
  int rank() const { return data().rank(); }
  int64_t numel() const { return data().numel(); }
  DType dtype() const { return data().dtype(); }
  Device device() const { return data().device(); }

  bool requires_grad() const;
  /// Only leaves of a floating type can ask for gradients; throws AutogradError otherwise.
  Variable& set_requires_grad(bool requires_grad);
  bool is_leaf() const;

  /// The accumulated gradient, of the shape of data(); undefined before the first backward().
  const Tensor& grad() const;
  Tensor& mutable_grad();
  void zero_grad();  ///< makes the gradient undefined again
  /// Keeps the gradient of a non-leaf after backward().
  void retain_grad();
  /// Called with the complete gradient of this variable during backward(), in order of
  /// registration.
  void register_hook(GradHook hook);

  /// Computes gradients of all leaves that this variable depends on and adds them to theirs.
  /// Without `grad_output` the variable must have one element. The record is freed unless
  /// `retain_graph`.
  void backward(const Tensor& grad_output = {}, bool retain_graph = false) const;

  /// The same value, cut off from the record.
  Variable detach() const;

  /// Says how the value can be computed again, to the bit, from what is kept anyway: functions that
  /// would keep it for their backward may then keep `compute` instead. That must not hold the
  /// value.
  void set_recomputation(std::function<Tensor()> compute);
  /// Null where there is none.
  const std::shared_ptr<const std::function<Tensor()>>& recomputation() const;

  const std::shared_ptr<GradMeta>& grad_meta() const;

 private:
  struct Impl {
    Tensor data;
    std::shared_ptr<GradMeta> meta;
    std::shared_ptr<const std::function<Tensor()>> recomputation;
  };
  std::shared_ptr<Impl> impl_;

  friend std::vector<Variable> record(
      std::string_view, std::vector<Tensor>, const std::vector<Variable>&,
      std::function<std::vector<Tensor>(const std::vector<Tensor>&)>);
};

std::ostream& operator<<(std::ostream& stream, const Variable& variable);

/// Whether functions record themselves in this thread.
bool grad_enabled();

/// Switches recording off (or on) until the end of the scope.
class GradModeGuard {
 public:
  explicit GradModeGuard(bool enabled);
  ~GradModeGuard();
  GradModeGuard(const GradModeGuard&) = delete;
  GradModeGuard& operator=(const GradModeGuard&) = delete;

 private:
  bool previous_;
};

class NoGradGuard : public GradModeGuard {
 public:
  NoGradGuard() : GradModeGuard(false) {}
};

}  // namespace weft::autograd
