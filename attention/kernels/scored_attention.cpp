#include "weft/attention/kernels/scored_attention.h"

#include <utility>

#include "weft/attention/kernels/latent_attention.h"
#include "weft/tensor/check.h"
#include "weft/tensor/kernel.h"

#include "kernels/attention_arguments.h"
#include "kernels/block_selection_params.h"
#include "kernels/op_list.h"
#include "kernels/scored_attention_kernels.h"

namespace weft::attention {
namespace {

constexpr Kernel<void(const ScoredAttentionParams&, Stream)> kAttend{
    "scored_attention", &scored_attention_forward_cpu,
    WEFT_NO_CUDA_KERNEL(scored_attention_forward_cuda)};
constexpr Kernel<void(const ScoredSelectionParams&, Stream)> kSelect{
    "select_blocks_by_scores", &select_scored_blocks_cpu,
    WEFT_NO_CUDA_KERNEL(select_scored_blocks_cuda)};

/// A row of scores takes whole vectors of any width.
int64_t padded_row(int64_t keys) {
  constexpr int64_t kRow = 16;
  return (keys + kRow - 1) / kRow * kRow;
}

ScoredAttentionOutput attend(const Tensor& q, const Tensor& q_rope, const Tensor& k,
                             const Tensor& k_rope, const Tensor& v,
                             const FlashAttentionOptions& options) {
  ScoredAttentionParams params;
  static_cast<FlashAttentionParams&>(params) = make_params(kAttend.op, q, k, v, options);
  WEFT_CHECK(can_keep_scores(q), NotImplementedError,
             "{}: takes one query a sequence, on the CPU, got q {}", kAttend.op, q);
  if (q_rope.defined() && q_rope.size(3) > 0) {
    params.second_dim = q_rope.size(3);
    params.q_second = view_of(q_rope);
    params.k_second = view_of(k_rope);
  }
  FlashAttentionOutput out = make_output(params, q.device());
  params.scores_stride = padded_row(params.keys);
  const Tensor scores = empty({params.batch, params.heads, params.scores_stride}, out.lse.dtype());
  params.scores = scores.raw_data();
  if (out.o.numel() > 0) kAttend(q.device())(params, current_stream(q.device()));
  return {out.o, out.lse, scores.slice(2, 0, params.keys)};
}

}  // namespace

bool can_keep_scores(const Tensor& q) {
  return q.device().is_cpu() && q.rank() == 4 && q.size(1) == 1;
}

ScoredAttentionOutput scored_attention_forward(const Tensor& q, const Tensor& k, const Tensor& v,
                                               const FlashAttentionOptions& options) {
  return attend(with_dense_rows(q), {}, with_dense_rows(k), {}, with_dense_rows(v), options);
}

ScoredAttentionOutput scored_latent_attention_forward(const Tensor& q_latent, const Tensor& q_rope,
                                                      const Tensor& latents,
                                                      const Tensor& rope_keys,
                                                      const FlashAttentionOptions& options) {
  check_latent_parts(kAttend.op, q_latent, q_rope, latents, rope_keys, options.scale);
  const Tensor k = with_dense_rows(latents);
  return attend(with_dense_rows(q_latent), with_dense_rows(q_rope), k, with_dense_rows(rope_keys),
                k, options);
}

Selection select_blocks_by_scores(const ScoredAttentionOutput& attention, int64_t groups,
                                  int64_t position, int64_t keys,
                                  const BlockSelectionOptions& options) {
  const char* const op = kSelect.op;
  validate(options);
  const Tensor &scores = attention.scores, &lse = attention.lse;
  WEFT_CHECK(scores.defined() && scores.rank() == 3 && lse.defined() &&
                 lse.shape() == Shape({scores.size(0), scores.size(1), 1}),
             ShapeError, "{}: scores must be [B, H, Nc] and lse [B, H, 1], got {} and {}", op,
             scores, lse);
  WEFT_CHECK((scores.dtype() == DType::f32 || scores.dtype() == DType::f64) &&
                 lse.dtype() == scores.dtype(),
             DTypeError, "{}: scores and lse must both be f32 or f64, got {} and {}", op, scores,
             lse);
  WEFT_CHECK(scores.device() == lse.device(), DeviceError,
             "{}: scores and lse must be on one device, got {} and {}", op, scores, lse);
  WEFT_CHECK(groups >= 1 && scores.size(1) % groups == 0, ShapeError,
             "{}: the {} query heads must be a multiple of the {} groups", op, scores.size(1),
             groups);
  WEFT_CHECK(options.scale.has_value(), ConfigError, "{}: scale must be set", op);
  WEFT_CHECK(position >= 0 && position < keys && position % options.query_tile == 0, ConfigError,
             "{}: position must be the first of a run of {} among the {} keys, got {}", op,
             options.query_tile, keys, position);
  const SelectionShape shape{.batch = scores.size(0),
                             .groups = groups,
                             .queries = 1,
                             .keys = keys,
                             .position = position,
                             .query_tile = options.query_tile,
                             .key_block = options.key_block};

  ScoredSelectionParams params{selection_params(op, shape, options)};
  params.dtype = scores.dtype();
  params.heads = scores.size(1);
  params.compressed = scores.size(2);
  const bool in_rows = scores.stride(2) == 1 && scores.stride(1) == padded_row(params.compressed) &&
                       scores.stride(0) == params.heads * scores.stride(1);
  Tensor rows = scores;
  if (!in_rows) {
    rows = empty({shape.batch, params.heads, padded_row(params.compressed)}, scores.dtype());
    rows.slice(2, 0, params.compressed).copy_(scores);
  }
  const Tensor sums = lse.contiguous();
  params.scores = rows.raw_data();
  params.scores_stride = padded_row(params.compressed);
  params.lse = sums.raw_data();
  Tensor offsets =
      shape.lists() == 0 ? zeros({1}, DType::i64) : empty({shape.lists() + 1}, DType::i64);
  Tensor blocks = empty({shape.lists() * params.blocks_before(1)}, DType::i32);
  params.offsets = offsets.data<int64_t>();
  params.blocks = blocks.data<int32_t>();
  if (shape.batch > 0) kSelect(scores.device())(params, current_stream(scores.device()));
  return {shape, std::move(offsets), std::move(blocks)};
}

void list_scored_attention_ops(OpTable& table) {
  table.add(kAttend, kFloatingTypes);
  table.add(kSelect, {DType::f64, DType::f32});
}

}  // namespace weft::attention
