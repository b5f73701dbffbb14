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

}  // namespace weft::autograd
