#pragma once

#include <vector>

#include "weft/tensor/tensor.h"

namespace weft::attention {

/// Branches that one sum may have.
inline constexpr int kMaxGatedBranches = 4;

/// y = sum over c of sigmoid(logits_c + bias_c) o_c, with a gate for each token and head: branches
/// o_c [B, T, H, D] (1 to kMaxGatedBranches of them), logits [B, T, H, C] of their type, bias
/// [H, C] of their type or its accumulator's (f64 for f64, else f32), undefined for none. Any
/// strides. Half types are summed in f32. Throws ShapeError, DTypeError, DeviceError.
/// Source: Yuan et al., "Native Sparse Attention" (arXiv 2502.11089), equation 5.
Tensor gated_sum_forward(const std::vector<Tensor>& branches, const Tensor& logits,
                         const Tensor& bias = {});

struct GatedSumGradients {
  std::vector<Tensor> dbranches;  ///< dense
  Tensor dlogits;                 ///< dense
  Tensor dbias;                   ///< of bias' type; undefined without bias
};

/// Gradients of gated_sum_forward() from dy [B, T, H, D] and its inputs, in one pass:
/// do_c = g_c dy, dlogits_c = g_c (1 - g_c) <dy, o_c>. The same bits for any number of threads.
GatedSumGradients gated_sum_backward(const Tensor& dy, const std::vector<Tensor>& branches,
                                     const Tensor& logits, const Tensor& bias = {});

}  // namespace weft::attention
