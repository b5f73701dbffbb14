#include "weft/autograd/functions/reduce.h"

#include <cmath>
#include <limits>

#include "weft/autograd/node.h"
#include "weft/tensor/ops/arithmetic.h"
#include "weft/tensor/ops/compare.h"
#include "weft/tensor/ops/reduce.h"
#include "weft/tensor/ops/unary.h"

namespace weft::autograd {
namespace {

/// `shape` with size 1 on the reduced axes, which broadcasts against the input.
Shape kept_shape(const char* op, Shape shape, const Axes& axes) {
  const unsigned mask = axes.mask(op, shape.rank());
  for (int axis = 0; axis < shape.rank(); ++axis)
    if (mask >> axis & 1u) shape[axis] = 1;
  return shape;
}

int64_t reduced_count(const Shape& shape, const Shape& kept) {
  int64_t count = 1;
  for (int axis = 0; axis < shape.rank(); ++axis)
    if (kept[axis] != shape[axis]) count *= shape[axis];
  return count;
}

/// `grad` shared out evenly among the elements where `mask` is 1.
Tensor share_out(const Tensor& grad, const Tensor& mask, const Axes& axes) {
  return mul(mask, div(grad, sum(mask, axes, /*keepdim=*/true)));
}

using Reduction = Tensor (*)(const Tensor&, const Axes&, bool);

Variable extremum(const char* name, Reduction reduce, const Variable& x, const Axes& axes,
                  bool keepdim) {
  Tensor y = reduce(x.data(), axes, keepdim);
  return record(
      name, y, {x},
      [x = SavedTensor(x.data()), y = SavedTensor(y), axes,
       kept = kept_shape(name, x.shape(), axes)](const Tensor& dy) -> std::vector<Tensor> {
        const Tensor is_extreme = eq(x.get(), y.get().reshape(kept)).to(dy.dtype());
        return {share_out(dy.reshape(kept), is_extreme, axes)};
      });
}

}  // namespace

Variable sum(const Variable& x, const Axes& axes, bool keepdim) {
  return record("sum", weft::sum(x.data(), axes, keepdim), {x},
                [shape = x.shape(), kept = kept_shape("sum", x.shape(), axes)](const Tensor& dy)
                    -> std::vector<Tensor> { return {dy.reshape(kept).expand(shape)}; });
}

Variable mean(const Variable& x, const Axes& axes, bool keepdim) {
  return record("mean", weft::mean(x.data(), axes, keepdim), {x},
                [shape = x.shape(), kept = kept_shape("mean", x.shape(), axes)](
                    const Tensor& dy) -> std::vector<Tensor> {
                  const auto count = static_cast<double>(reduced_count(shape, kept));
                  return {div(dy.reshape(kept), count).expand(shape)};
                });
}

Variable max(const Variable& x, const Axes& axes, bool keepdim) {
  return extremum("max", &weft::max, x, axes, keepdim);
}

Variable min(const Variable& x, const Axes& axes, bool keepdim) {
  return extremum("min", &weft::min, x, axes, keepdim);
}

Variable var(const Variable& x, const Axes& axes, int correction, bool keepdim) {
  return record(
      "var", weft::var(x.data(), axes, correction, keepdim), {x},
      [x = SavedTensor(x.data()), axes, correction](const Tensor& dy) -> std::vector<Tensor> {
        // d/dx_i of sum((x - mean)^2) / n = 2 (x_i - mean) / n
        const Shape kept = kept_shape("var", x.get().shape(), axes);
        const auto count = static_cast<double>(reduced_count(x.get().shape(), kept));
        const double n =
            count > correction ? count - correction : std::numeric_limits<double>::quiet_NaN();
        Tensor dx = sub(x.get(), weft::mean(x.get(), axes, /*keepdim=*/true));
        return {mul_(dx, mul(dy.reshape(kept), 2 / n))};
      });
}

Variable norm(const Variable& x, const Axes& axes, double p, bool keepdim) {
  Tensor y = weft::norm(x.data(), axes, p, keepdim);
  return record("norm", y, {x},
                [x = SavedTensor(x.data()), y = SavedTensor(y), axes,
                 p](const Tensor& grad) -> std::vector<Tensor> {
                  const Shape kept = kept_shape("norm", x.get().shape(), axes);
                  const Tensor dy = grad.reshape(kept);
                  const Tensor length = y.get().reshape(kept);
                  if (p == 1) return {mul(sign(x.get()), dy)};
                  if (std::isinf(p)) {
                    const Tensor is_largest = eq(abs(x.get()), length).to(dy.dtype());
                    return {mul(sign(x.get()), share_out(dy, is_largest, axes))};
                  }
                  // dy sign(x) (|x| / y)^(p - 1): the ratio is at most 1 and does not overflow.
                  const Tensor ratio = div(x.get(), where(eq(length, 0.0), 1.0, length));
                  if (p == 2) return {mul(ratio, dy)};
                  const Tensor powers = pow(abs(ratio), p - 1);
                  return {mul(where(eq(ratio, 0.0), 0.0, mul(sign(ratio), powers)), dy)};
                });
}

Variable logsumexp(const Variable& x, const Axes& axes, bool keepdim) {
  Tensor y = weft::logsumexp(x.data(), axes, keepdim);
  return record("logsumexp", y, {x},
                [x = SavedTensor(x.data()), y = SavedTensor(y),
                 axes](const Tensor& dy) -> std::vector<Tensor> {
                  const Shape kept = kept_shape("logsumexp", x.get().shape(), axes);
                  const Tensor total = y.get().reshape(kept);
                  // Where all x are -infinity, so is the total, and x - 0 stays -infinity.
                  const Tensor finite_total =
                      where(eq(total, -std::numeric_limits<double>::infinity()), 0.0, total);
                  return {mul(exp(sub(x.get(), finite_total)), dy.reshape(kept))};
                });
}

}  // namespace weft::autograd
