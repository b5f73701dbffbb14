#pragma once

#include <optional>

#include "weft/tensor/tensor.h"

namespace weft {

// The affine map of a layer and its gradients. In mixed precision weights and biases are f32
// masters while x and dy are bf16 (or f16): products then read a low-precision copy of the weight,
// made once per version of it, and gradients of parameters come out in f32 without an intermediate
// rounding.

/// y = x w^T + bias over the last axis. x: [..., K] of a floating type; weight: [N, K] and bias:
/// [N], each of x's type or f32; y: [..., N] of x's type. Throws ShapeError, DTypeError,
/// DeviceError.
Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias = {});

/// dx = dy w: [..., N] x [N, K] -> [..., K], of dy's type.
Tensor linear_backward_input(const Tensor& dy, const Tensor& weight);

/// dw = dy^T x, summed over all leading axes: [..., N] and [..., K] -> [N, K], of `out_dtype`
/// (their own type or f32; their own by default).
Tensor linear_backward_weight(const Tensor& dy, const Tensor& x,
                              std::optional<DType> out_dtype = std::nullopt);

/// dweight = dy^T x + beta dweight, in place: accumulates without a temporary.
void linear_backward_weight_into(Tensor& dweight, const Tensor& dy, const Tensor& x,
                                 double beta = 1);

/// dbias: dy summed over all leading axes, [..., N] -> [N], of `out_dtype` (dy's type or f32).
Tensor linear_backward_bias(const Tensor& dy, std::optional<DType> out_dtype = std::nullopt);

/// Gradients of a linear layer's parameters.
struct LinearParameterGrads {
  Tensor dweight, dbias;
};
/// linear_backward_weight() and linear_backward_bias() at once: on a GPU one product gives both,
/// with one pass over dy.
LinearParameterGrads linear_backward_parameters(const Tensor& dy, const Tensor& x,
                                                std::optional<DType> out_dtype = std::nullopt);

/// `weight` converted to `dtype`, from a cache as long as the weight's storage lives. A weight that
/// has changed (Storage::version() tells) is converted again to where its copy was, so that the
/// address of a copy stays. Do not write to the result, except through LowPrecisionCopies.
/// Thread-safe. Copies of weights that are gone are dropped when the next copy is made. While a
/// graph is captured, a copy that is not up to date is made by the graph, and not kept.
Tensor low_precision_copy(const Tensor& weight, DType dtype);

/// Drops all copies that low_precision_copy() keeps.
void clear_low_precision_copies();

}  // namespace weft
