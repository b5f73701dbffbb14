#pragma once

#include "weft/attention/kernels/block_pool.h"
#include "weft/tensor/stream.h"

namespace weft::attention {

// Checked by the caller. Tensors called x or dx have a dense last axis, all others are dense;
// weights, bias and dweights are of the accumulator type of x.

struct BlockPoolParams {
  BlockShape shape;
  Tensor x;        // [B, T, H, D]
  Tensor weights;  // [1 or H, l]
  Tensor bias;     // [H, D], added to every block; may be undefined
  Tensor y;        // [B, Nc, H, D]
};
void block_pool_forward_cpu(const BlockPoolParams& params, Stream stream);
void block_pool_forward_cuda(const BlockPoolParams& params, Stream stream);

struct BlockPoolBackwardParams {
  BlockShape shape;
  Tensor dy;        // [B, Nc, H, D]
  Tensor weights;   // [1 or H, l]
  Tensor x;         // [B, T, H, D]; undefined where dweights is
  Tensor dx;        // [B, T, H, D]; may be undefined
  Tensor dweights;  // [H, l], sums over the blocks of each head; may be undefined
};
void block_pool_backward_cpu(const BlockPoolBackwardParams& params, Stream stream);
void block_pool_backward_cuda(const BlockPoolBackwardParams& params, Stream stream);

struct BlockUnfoldParams {
  BlockShape shape;
  Tensor x;          // [B, T, H, D]; forward reads it, backward writes its gradient
  Tensor positions;  // [H, l, D]; may be undefined
  Tensor z;          // [B, Nc, H, l D]
};
void block_unfold_forward_cpu(const BlockUnfoldParams& params, Stream stream);
void block_unfold_forward_cuda(const BlockUnfoldParams& params, Stream stream);
void block_unfold_backward_cpu(const BlockUnfoldParams& params, Stream stream);
void block_unfold_backward_cuda(const BlockUnfoldParams& params, Stream stream);

}  // namespace weft::attention
