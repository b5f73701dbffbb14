#pragma once

#include <cstdint>

#include "weft/tensor/dtype.h"
#include "weft/tensor/stream.h"

namespace weft::attention {

/// Elements [B, T or S, heads, dim] with a dense last axis; strides in elements.
struct HeadsView {
  void* data = nullptr;
  int64_t batch_stride = 0;
  int64_t row_stride = 0;
  int64_t head_stride = 0;
};

/// One attention problem as launchers see it. Pointers of `dtype`; row statistics [B, H, T] of
/// `dtype`'s accumulator. Checked by the caller.
struct FlashAttentionParams {
  DType dtype = DType::f32;
  int64_t batch = 0, queries = 0, keys = 0, heads = 0, kv_heads = 0, dim = 0, value_dim = 0;
  bool causal = true;
  int64_t window = 0;
  int64_t position = 0;  // of the first query; below 0 where the first queries see no key
  int64_t key_length = 1, key_stride = 1;
  double scale = 1;
  HeadsView q, k, v, o;
  void* lse = nullptr;

  /// Keys [first, last) that some query row of [begin, end) sees.
  struct Range {
    int64_t first, last;
    bool empty() const { return first >= last; }
  };
  Range visible_keys(int64_t begin, int64_t end) const {
    const int64_t past = position + end - key_length;  // tokens after the first key's last one
    const int64_t last = !causal ? keys : past < 0 ? 0 : past / key_stride + 1;
    const int64_t first = window > 0 ? position + begin - window + 1 : 0;
    return {first > 0 ? first : 0, last < keys ? last : keys};
  }
};

struct FlashAttentionBackwardParams : FlashAttentionParams {
  HeadsView dout, dq, dk, dv;
  /// Sums over keys of dq [B, T, H, D] in the accumulator type: dq itself where types agree, and on
  /// devices that need no such sums.
  HeadsView dq_sum;
};

void flash_attention_forward_cpu(const FlashAttentionParams& params, Stream stream);
void flash_attention_backward_cpu(const FlashAttentionBackwardParams& params, Stream stream);

void flash_attention_forward_cuda(const FlashAttentionParams& params, Stream stream);
void flash_attention_backward_cuda(const FlashAttentionBackwardParams& params, Stream stream);

}  // namespace weft::attention
