#pragma once

#include "weft/tensor/stream.h"
#include "weft/tensor/tensor.h"

namespace weft {

/// Rows of logits with what they are compared to. Targets are i64 and dense; on the CPU they are
/// checked, on a GPU kernels report those outside (the forward pass and both at once).
struct CrossEntropyRows {
  Tensor logits;  // [N, V], rows dense
  Tensor targets;
  int64_t ignore_index = 0;
  double label_smoothing = 0;
};

/// Writes losses and logsumexp [N], of the accumulator type.
void cross_entropy_forward_cpu(const CrossEntropyRows& rows, Tensor& losses, Tensor& logsumexp,
                               Stream stream);
/// dlogits [N, V] dense, of the logits' type; dlosses [N] of the accumulator type, any stride.
void cross_entropy_backward_cpu(const CrossEntropyRows& rows, const Tensor& logsumexp,
                                const Tensor& dlosses, Tensor& dlogits, Stream stream);
/// Both at once; dloss, of rank 0 and the accumulator type, is the gradient of every loss, 1 where
/// undefined. Destroys the logits (f32 or f64); dlogits is dense, of any type computed in that, and
/// may be the logits.
void cross_entropy_both_cpu(CrossEntropyRows& rows, const Tensor& dloss, Tensor& losses,
                            Tensor& dlogits, Stream stream);

void cross_entropy_forward_cuda(const CrossEntropyRows& rows, Tensor& losses, Tensor& logsumexp,
                                Stream stream);
void cross_entropy_backward_cuda(const CrossEntropyRows& rows, const Tensor& logsumexp,
                                 const Tensor& dlosses, Tensor& dlogits, Stream stream);
/// dlogits is the logits, of any floating type. Where their rows begin at multiples of 16 bytes,
/// what pads the last 16 bytes of a row is overwritten.
void cross_entropy_both_cuda(CrossEntropyRows& rows, const Tensor& dloss, Tensor& losses,
                             Tensor& dlogits, Stream stream);

}  // namespace weft
