#include "weft/autograd/functions/join.h"

#include <utility>

#include "weft/autograd/node.h"
#include "weft/tensor/ops/join.h"

namespace weft::autograd {
namespace {

std::vector<Tensor> data_of(const std::vector<Variable>& variables) {
  std::vector<Tensor> tensors;
  for (const Variable& variable : variables) tensors.push_back(variable.data());
  return tensors;
}

}  // namespace

Variable cat(const std::vector<Variable>& variables, int axis) {
  Tensor joined = weft::cat(data_of(variables), axis);
  if (!grad_enabled()) return Variable(std::move(joined));
  std::vector<int64_t> sizes;
  for (const Variable& variable : variables) sizes.push_back(variable.size(axis));
  return record(
      "cat", std::move(joined), variables,
      [sizes = std::move(sizes), axis](const Tensor& dy) { return dy.split(sizes, axis); });
}

Variable stack(const std::vector<Variable>& variables, int axis) {
  Tensor joined = weft::stack(data_of(variables), axis);
  if (!grad_enabled()) return Variable(std::move(joined));
  return record("stack", std::move(joined), variables,
                [count = variables.size(), axis](const Tensor& dy) {
                  std::vector<Tensor> grads;
                  for (size_t i = 0; i < count; ++i)
                    grads.push_back(dy.select(axis, static_cast<int64_t>(i)));
                  return grads;
                });
}

Variable join_rows(const std::vector<Variable>& weights) {
  const Tensor& first = weights.front().data();
  int64_t rows = 0;
  bool adjacent = true;
  for (const Variable& weight : weights) {
    const Tensor& x = weight.data();
    adjacent &= x.storage() == first.storage() && x.dtype() == first.dtype() && x.is_contiguous() &&
                x.offset() == first.offset() + rows * first.size(1);
    rows += x.size(0);
  }
  if (!adjacent) return cat(weights, 0);
  const Shape shape{rows, first.size(1)};
  Tensor joined(first.storage(), {shape, contiguous_strides(shape), first.offset()}, first.dtype());
  if (!grad_enabled()) return Variable(std::move(joined));
  std::vector<int64_t> sizes;
  for (const Variable& weight : weights) sizes.push_back(weight.size(0));
  return record("join_rows", std::move(joined), weights,
                [sizes](const Tensor& dy) { return dy.split(sizes, 0); });
}

void pack_storage(std::vector<Variable>& weights) {
  int64_t rows = 0;
  for (const Variable& weight : weights) rows += weight.size(0);
  const Variable& first = weights.front();
  const Tensor packed = empty({rows, first.size(1)}, first.dtype(), first.device());
  int64_t row = 0;
  for (Variable& weight : weights) {
    Tensor piece = packed.slice(0, row, row + weight.size(0));
    piece.copy_(weight.data());
    row += weight.size(0);
    weight.set_data(piece);
  }
}

}  // namespace weft::autograd
