#include "weft/autograd/functions/pool.h"

#include "weft/autograd/node.h"

namespace weft::autograd {
namespace {

/// Without a backward pass there is no use for the positions of maxima.
bool needs_indices(const Variable& x) {
  return !x.defined() || (grad_enabled() && x.requires_grad());
}

}  // namespace

Variable max_pool2d(const Variable& x, const Pool2dOptions& options) {
  if (!needs_indices(x)) return Variable(weft::max_pool2d(x.data(), options));
  MaxPoolResult result = max_pool2d_forward(x.data(), options);
  return record("max_pool2d", result.y, {x},
                [indices = SavedTensor(result.indices),
                 x_shape = x.shape()](const Tensor& dy) -> std::vector<Tensor> {
                  return {max_pool2d_backward(dy, indices.get(), x_shape)};
                });
}

Variable avg_pool2d(const Variable& x, const Pool2dOptions& options) {
  return record("avg_pool2d", weft::avg_pool2d(x.data(), options), {x},
                [x_shape = x.shape(), options](const Tensor& dy) -> std::vector<Tensor> {
                  return {avg_pool2d_backward(dy, x_shape, options)};
                });
}

Variable max_pool1d(const Variable& x, const Pool1dOptions& options) {
  if (!needs_indices(x)) return Variable(weft::max_pool1d(x.data(), options));
  MaxPoolResult result = max_pool1d_forward(x.data(), options);
  return record("max_pool1d", result.y, {x},
                [indices = SavedTensor(result.indices),
                 x_shape = x.shape()](const Tensor& dy) -> std::vector<Tensor> {
                  return {max_pool1d_backward(dy, indices.get(), x_shape)};
                });
}

Variable avg_pool1d(const Variable& x, const Pool1dOptions& options) {
  return record("avg_pool1d", weft::avg_pool1d(x.data(), options), {x},
                [x_shape = x.shape(), options](const Tensor& dy) -> std::vector<Tensor> {
                  return {avg_pool1d_backward(dy, x_shape, options)};
                });
}

}  // namespace weft::autograd
