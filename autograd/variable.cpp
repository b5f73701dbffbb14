#include "weft/autograd/variable.h"

#include <ostream>
#include <utility>

#include "weft/autograd/node.h"
#include "weft/tensor/check.h"

namespace weft::autograd {
namespace {

thread_local bool grad_mode = true;

}  // namespace

Variable::Variable(Tensor data, bool requires_grad) : impl_(std::make_shared<Impl>()) {
  WEFT_CHECK(data.defined(), AutogradError, "variable: the tensor is undefined");
  impl_->meta = std::make_shared<GradMeta>();
  impl_->meta->shape = data.shape();
  impl_->meta->dtype = data.dtype();
  impl_->data = std::move(data);
  if (requires_grad) set_requires_grad(true);
}

const Tensor& Variable::data() const {
  WEFT_CHECK(defined(), AutogradError, "variable: undefined");
  return impl_->data;
}

Tensor& Variable::mutable_data() {
  return const_cast<Tensor&>(data());
}

const std::shared_ptr<GradMeta>& Variable::grad_meta() const {
  WEFT_CHECK(defined(), AutogradError, "variable: undefined");
  return impl_->meta;
}

void Variable::set_recomputation(std::function<Tensor()> compute) {
  WEFT_CHECK(defined(), AutogradError, "variable: undefined");
  impl_->recomputation = std::make_shared<const std::function<Tensor()>>(std::move(compute));
}

const std::shared_ptr<const std::function<Tensor()>>& Variable::recomputation() const {
  WEFT_CHECK(defined(), AutogradError, "variable: undefined");
  return impl_->recomputation;
}

void Variable::set_data(Tensor data) {
  WEFT_CHECK(is_leaf(), AutogradError,
             "set_data: the variable was computed by '{}'; only leaves can be replaced",
             grad_meta()->producer->name);
  WEFT_CHECK(data.defined() && data.shape() == shape(), ShapeError,
             "set_data: {} cannot replace {}", data, this->data());
  WEFT_CHECK(!requires_grad() || is_floating(data.dtype()), DTypeError,
             "set_data: gradients need a floating type, got {}", data);
  impl_->meta->dtype = data.dtype();
  impl_->data = std::move(data);
}

bool Variable::requires_grad() const {
  return grad_meta()->requires_grad;
}

Variable& Variable::set_requires_grad(bool requires_grad) {
  WEFT_CHECK(is_leaf(), AutogradError,
             "set_requires_grad: the variable was computed by '{}'; only leaves can change",
             grad_meta()->producer->name);
  WEFT_CHECK(!requires_grad || is_floating(dtype()), AutogradError,
             "set_requires_grad: gradients need a floating type, got {}", data());
  impl_->meta->requires_grad = requires_grad;
  return *this;
}

bool Variable::is_leaf() const {
  return grad_meta()->producer == nullptr;
}

const Tensor& Variable::grad() const {
  return grad_meta()->grad;
}

Tensor& Variable::mutable_grad() {
  return grad_meta()->grad;
}

void Variable::zero_grad() {
  grad_meta()->grad = Tensor();
}

void Variable::retain_grad() {
  WEFT_CHECK(requires_grad(), AutogradError,
             "retain_grad: the variable does not require a gradient");
  grad_meta()->retain_grad = true;
}

void Variable::register_hook(GradHook hook) {
  WEFT_CHECK(requires_grad(), AutogradError,
             "register_hook: the variable does not require a gradient");
  grad_meta()->hooks.push_back(std::move(hook));
}

void Variable::backward(const Tensor& grad_output, bool retain_graph) const {
  autograd::backward({*this}, {grad_output}, retain_graph);
}

Variable Variable::detach() const {
  return Variable(data());
}

std::ostream& operator<<(std::ostream& stream, const Variable& variable) {
  if (!variable.defined()) return stream << "undefined";
  stream << variable.data();
  if (!variable.is_leaf()) return stream << " from " << variable.grad_meta()->producer->name;
  return variable.requires_grad() ? stream << " requires_grad" : stream;
}

bool grad_enabled() {
  return grad_mode;
}

GradModeGuard::GradModeGuard(bool enabled) : previous_(std::exchange(grad_mode, enabled)) {}

GradModeGuard::~GradModeGuard() {
  grad_mode = previous_;
}

}  // namespace weft::autograd
