#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "cuda/cudnn_graph.h"
#include "kernels/flash_attention_kernels.h"

namespace weft::attention {

/// Full attention on a GPU by cuDNN's fused kernels: bf16 or f16, keys that stand for one token
/// each, the last query aligned with the last key. The matrix T x S exists in no memory.
///
/// A plan fits every problem of its shape, strides and options; only pointers may differ.
class CudnnAttention {
 public:
  /// The plan of the forward pass, with row statistics where params.lse is set. Throws
  /// cudnn::UnsupportedGraph where cuDNN has no kernel for it. `skip` leaves out cuDNN's first
  /// proposals, for comparisons.
  static CudnnAttention forward(const FlashAttentionParams& params, cudnnHandle_t handle,
                                int64_t skip = 0);
  /// The plan of the backward pass. Sums of dq are added in an order that varies, so that the last
  /// bits of dq differ between runs.
  static CudnnAttention backward(const FlashAttentionBackwardParams& params, cudnnHandle_t handle,
                                 int64_t skip = 0);

  /// Device memory that a run needs beside the tensors.
  size_t workspace_bytes() const;
  std::string description() const { return plan_.description(); }

  /// Puts the work on the handle's stream. `workspace` has workspace_bytes(), aligned to 256.
  void run(const FlashAttentionParams& params, cudnnHandle_t handle, void* workspace) const;
  void run(const FlashAttentionBackwardParams& params, cudnnHandle_t handle, void* workspace) const;

 private:
  struct Tensors {
    cudnn::TensorId q = 0, k = 0, v = 0, o = 0, lse = 0;
    cudnn::TensorId dout = 0, dq = 0, dk = 0, dv = 0;
    cudnn::TensorId dq_sum = 0, row_sum = 0;  // of the backward pass, in f32
    size_t dq_sum_bytes = 0, row_sum_bytes = 0;
  };
  CudnnAttention(const Tensors& tensors, cudnn::Plan plan)
      : tensors_(tensors), plan_(std::move(plan)) {}

  Tensors tensors_;
  cudnn::Plan plan_;
};

/// Why cuDNN is not asked for this problem, or an empty text. It may refuse others still.
std::string cudnn_attention_limits(const FlashAttentionParams& params);
std::string cudnn_attention_limits(const FlashAttentionBackwardParams& params);

/// What a plan depends on: problems with equal keys may share one.
std::vector<int64_t> cudnn_plan_key(const FlashAttentionParams& params, int device);
std::vector<int64_t> cudnn_plan_key(const FlashAttentionBackwardParams& params, int device);

/// The plan for a problem within those limits on the handle's device, made once and kept for the
/// life of the process, as captured CUDA graphs need; null where cuDNN refuses, with its reason in
/// `refusal`.
const CudnnAttention* cudnn_attention_forward(const FlashAttentionParams& params, int device,
                                              cudnnHandle_t handle, std::string* refusal = nullptr);
const CudnnAttention* cudnn_attention_backward(const FlashAttentionBackwardParams& params,
                                               int device, cudnnHandle_t handle,
                                               std::string* refusal = nullptr);

}  // namespace weft::attention
