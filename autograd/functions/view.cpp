#include "weft/autograd/functions/view.h"

#include <utility>

#include "weft/autograd/node.h"

namespace weft::autograd {
namespace {

/// A function whose backward only gives the gradient the input's shape again.
Variable record_reshaped(const char* name, Tensor y, const Variable& x) {
  if (!grad_enabled()) return Variable(std::move(y));
  return record(
      name, std::move(y), {x},
      [shape = x.shape()](const Tensor& dy) -> std::vector<Tensor> { return {dy.reshape(shape)}; });
}

std::vector<Variable> as_variables(std::vector<Tensor> tensors) {
  std::vector<Variable> variables;
  variables.reserve(tensors.size());
  for (Tensor& tensor : tensors) variables.emplace_back(std::move(tensor));
  return variables;
}

std::vector<Variable> record_split(std::vector<Tensor> pieces, const Variable& x, int axis) {
  if (pieces.empty()) return {};
  if (!grad_enabled()) return as_variables(std::move(pieces));
  std::vector<int64_t> sizes;
  for (const Tensor& piece : pieces) sizes.push_back(piece.size(axis));
  return record(
      "split", std::move(pieces), {x},
      [shape = x.shape(), dtype = x.dtype(), device = x.device(), sizes = std::move(sizes),
       axis](const std::vector<Tensor>& grads) -> std::vector<Tensor> {
        Tensor dx = empty(shape, dtype, device);
        int64_t start = 0;
        for (size_t i = 0; i < sizes.size(); ++i) {
          Tensor piece = dx.slice(axis, start, start + sizes[i]);
          start += sizes[i];
          if (i < grads.size() && grads[i].defined()) {
            piece.copy_(grads[i]);
          } else {
            piece.zero_();
          }
        }
        return {dx};
      });
}

}  // namespace

Variable reshape(const Variable& x, const Shape& shape) {
  return record_reshaped("reshape", x.data().reshape(shape), x);
}

Variable view(const Variable& x, const Shape& shape) {
  return record_reshaped("view", x.data().view(shape), x);
}

Variable squeeze(const Variable& x, int axis) {
  return record_reshaped("squeeze", x.data().squeeze(axis), x);
}

Variable squeeze(const Variable& x) {
  return record_reshaped("squeeze", x.data().squeeze(), x);
}

Variable unsqueeze(const Variable& x, int axis) {
  return record_reshaped("unsqueeze", x.data().unsqueeze(axis), x);
}

Variable flatten(const Variable& x, int first, int last) {
  return record_reshaped("flatten", x.data().flatten(first, last), x);
}

Variable transpose(const Variable& x, int axis_a, int axis_b) {
  return record("transpose", x.data().transpose(axis_a, axis_b), {x},
                [axis_a, axis_b](const Tensor& dy) -> std::vector<Tensor> {
                  return {dy.transpose(axis_a, axis_b)};
                });
}

Variable permute(const Variable& x, std::initializer_list<int> axes) {
  return permute(x, std::span<const int>(axes.begin(), axes.size()));
}

Variable permute(const Variable& x, std::span<const int> axes) {
  Tensor y = x.data().permute(axes);
  std::vector<int> inverse(axes.size());
  for (size_t i = 0; i < axes.size(); ++i) {
    const int from = axes[i] < 0 ? axes[i] + x.rank() : axes[i];
    inverse[static_cast<size_t>(from)] = static_cast<int>(i);
  }
  return record("permute", std::move(y), {x},
                [inverse = std::move(inverse)](const Tensor& dy) -> std::vector<Tensor> {
                  return {dy.permute(inverse)};
                });
}

Variable slice(const Variable& x, int axis, int64_t start, int64_t stop, int64_t step) {
  return record(
      "slice", x.data().slice(axis, start, stop, step), {x},
      [shape = x.shape(), axis, start, stop, step](const Tensor& dy) -> std::vector<Tensor> {
        if (dy.shape() == shape) return {dy};
        Tensor dx = zeros(shape, dy.dtype(), dy.device());
        dx.slice(axis, start, stop, step).copy_(dy);
        return {dx};
      });
}

Variable select(const Variable& x, int axis, int64_t index) {
  return record("select", x.data().select(axis, index), {x},
                [shape = x.shape(), axis, index](const Tensor& dy) -> std::vector<Tensor> {
                  Tensor dx = zeros(shape, dy.dtype(), dy.device());
                  dx.select(axis, index).copy_(dy);
                  return {dx};
                });
}

Variable expand(const Variable& x, const Shape& shape) {
  return record("expand", x.data().expand(shape), {x},
                [shape = x.shape()](const Tensor& dy) -> std::vector<Tensor> {
                  return {reduce_to_shape(dy, shape)};
                });
}

std::vector<Variable> split(const Variable& x, int64_t size, int axis) {
  return record_split(x.data().split(size, axis), x, axis);
}

std::vector<Variable> split(const Variable& x, std::span<const int64_t> sizes, int axis) {
  return record_split(x.data().split(sizes, axis), x, axis);
}

Variable contiguous(const Variable& x) {
  if (x.data().is_contiguous()) return x;
  return record("contiguous", x.data().clone(), {x},
                [](const Tensor& dy) -> std::vector<Tensor> { return {dy}; });
}

Variable to(const Variable& x, DType dtype) {
  if (x.dtype() == dtype) return x;
  return record(
      "to", x.data().to(dtype), {x},
      [from = x.dtype()](const Tensor& dy) -> std::vector<Tensor> { return {dy.to(from)}; });
}

}  // namespace weft::autograd
