#pragma once

#include <cstdint>

#include "weft/attention/selection.h"

#include "kernels/flash_attention_kernels.h"

namespace weft::attention {

/// The lists of a selection as launchers see them (see Selection).
struct SelectionView {
  SelectionShape shape;
  const int64_t* offsets = nullptr;
  const int32_t* blocks = nullptr;
  int64_t entries = 0;  // room in blocks: at least the lengths of all lists

  struct List {
    const int32_t* first;
    const int32_t* last;
  };
  List list(int64_t batch, int64_t group, int64_t tile) const {
    const int64_t index = (batch * shape.groups + group) * shape.tiles() + tile;
    return {blocks + offsets[index], blocks + offsets[index + 1]};
  }
};

/// Attention over listed blocks: causal, without a window, from selection.shape.position on.
struct SelectedAttentionParams : FlashAttentionParams {
  SelectionView selection;
};
struct SelectedAttentionBackwardParams : FlashAttentionBackwardParams {
  SelectionView selection;
};

/// The lists of `selection` once they are known to fit the problem and q.
SelectionView checked_view(const char* op, const FlashAttentionParams& params, const Tensor& q,
                           const Selection& selection);

void selected_attention_forward_cpu(const SelectedAttentionParams& params, Stream stream);
void selected_attention_backward_cpu(const SelectedAttentionBackwardParams& params, Stream stream);

void selected_attention_forward_cuda(const SelectedAttentionParams& params, Stream stream);
void selected_attention_backward_cuda(const SelectedAttentionBackwardParams& params, Stream stream);

}  // namespace weft::attention
