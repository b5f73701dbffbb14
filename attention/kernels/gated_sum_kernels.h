#pragma once

#include <vector>

#include "weft/tensor/stream.h"
#include "weft/tensor/tensor.h"

namespace weft::attention {

/// Checked by the caller. Tensors [B, T, H, .] have a dense last axis; results are dense.
struct GatedSumParams {
  std::vector<Tensor> branches;  // [B, T, H, D]
  Tensor logits;                 // [B, T, H, C]
  Tensor bias;                   // [H, C] of the accumulator type; may be undefined
  Tensor y;                      // [B, T, H, D]; forward only
};
void gated_sum_forward_cpu(const GatedSumParams& params, Stream stream);
void gated_sum_forward_cuda(const GatedSumParams& params, Stream stream);

struct GatedSumBackwardParams : GatedSumParams {
  Tensor dy;                      // [B, T, H, D]
  std::vector<Tensor> dbranches;  // [B, T, H, D]
  Tensor dlogits;                 // [B, T, H, C]
};
void gated_sum_backward_cpu(const GatedSumBackwardParams& params, Stream stream);
void gated_sum_backward_cuda(const GatedSumBackwardParams& params, Stream stream);

}  // namespace weft::attention
