#pragma once

#include <cstdint>
#include <optional>

#include "weft/tensor/tensor.h"

namespace weft::attention {

/// Blocks of consecutive tokens: block i holds the tokens [i stride, i stride + block).
struct BlockShape {
  int64_t block = 16;   ///< l
  int64_t stride = 16;  ///< d, at most l

  /// Blocks that lie wholly inside the first `tokens` tokens, Nc(T).
  int64_t count(int64_t tokens) const { return tokens < block ? 0 : (tokens - block) / stride + 1; }
};

/// Throws ConfigError unless block and stride are at least 1 and stride is at most block.
void validate(const BlockShape& shape);

// x: [B, T, H, D] of a floating type, in any layout. Parameters are of x's type or of its
// accumulator's (f64 for f64, else f32), and so are their gradients. Half types are summed in f32.
// Every result is the same for any number of threads. Throws ShapeError, DTypeError, DeviceError,
// ConfigError.

/// Weighted sums of the rows of every complete block: y_i = sum over m of weights_m (x_{id+m} +
/// positions_m). weights [1 or H, l]; undefined means the mean, 1 / l each. positions [H, l, D] or
/// undefined (zero). Gives [B, Nc, H, D]; Nc may be 0.
Tensor block_pool_forward(const Tensor& x, const BlockShape& shape, const Tensor& weights = {},
                          const Tensor& positions = {});

struct BlockPoolGradients {
  Tensor dx, dweights, dpositions;  ///< undefined for parameters that are
};

/// Gradients of block_pool_forward() from dy [B, Nc, H, D] and its inputs. Tokens in no complete
/// block get 0.
BlockPoolGradients block_pool_backward(const Tensor& dy, const Tensor& x, const BlockShape& shape,
                                       const Tensor& weights = {}, const Tensor& positions = {});

/// dx alone, which needs only the number of tokens of x.
Tensor block_pool_backward_input(const Tensor& dy, int64_t tokens, const BlockShape& shape,
                                 const Tensor& weights = {});

/// The rows of every complete block side by side, with their positions added:
/// z_i = [x_{id} + positions_0, ..., x_{id+l-1} + positions_{l-1}], [B, Nc, H, l D].
Tensor block_unfold_forward(const Tensor& x, const BlockShape& shape, const Tensor& positions = {});

/// dx [B, tokens, H, D] of block_unfold_forward() from dz [B, Nc, H, l D].
Tensor block_unfold_backward_input(const Tensor& dz, int64_t tokens, const BlockShape& shape);

/// dpositions [H, l, D] of block_unfold_forward(), of `dtype` (dz's own by default).
Tensor block_unfold_backward_positions(const Tensor& dz, const BlockShape& shape,
                                       std::optional<DType> dtype = std::nullopt);

}  // namespace weft::attention
