#include "weft/attention/functions.h"

#include "weft/attention/kernels/rotary_embedding.h"
#include "weft/autograd/functions/join.h"
#include "weft/autograd/node.h"
#include "weft/tensor/check.h"

namespace weft::attention {

using autograd::record;
using autograd::SavedTensor;

Variable flash_attention(const Variable& q, const Variable& k, const Variable& v,
                         const FlashAttentionOptions& options) {
  const FlashAttentionOutput out = flash_attention_forward(q.data(), k.data(), v.data(), options);
  return record("flash_attention", out.o, {q, k, v},
                [q = SavedTensor(q.data()), k = SavedTensor(k.data()), v = SavedTensor(v.data()),
                 o = SavedTensor(out.o), lse = SavedTensor(out.lse),
                 options](const Tensor& dout) -> std::vector<Tensor> {
                  const FlashAttentionGradients grads = flash_attention_backward(
                      dout, q.get(), k.get(), v.get(), o.get(), lse.get(), options);
                  return {grads.dq, grads.dk, grads.dv};
                });
}

QueryKeyValue unpack_heads(const Tensor& packed, const PackedHeads& heads) {
  WEFT_CHECK(packed.defined() && packed.rank() == 3 && packed.size(2) == heads.width(), ShapeError,
             "packed_attention: the product must be [B, T, {}] for {} heads and {} key heads of "
             "{} and {}, got {}",
             heads.width(), heads.heads, heads.kv_heads, heads.dim, heads.value_dim, packed);
  const int64_t batch = packed.size(0), rows = packed.size(1);
  const int64_t keys_at = heads.heads * heads.dim;
  const int64_t values_at = keys_at + heads.kv_heads * heads.dim;
  return {packed.slice(2, 0, keys_at).view({batch, rows, heads.heads, heads.dim}),
          packed.slice(2, keys_at, values_at).view({batch, rows, heads.kv_heads, heads.dim}),
          packed.slice(2, values_at, heads.width())
              .view({batch, rows, heads.kv_heads, heads.value_dim})};
}

Variable packed_attention(const Variable& packed, const PackedHeads& heads, int64_t position,
                          double rope_theta, const FlashAttentionOptions& options) {
  QueryKeyValue x = unpack_heads(packed.data(), heads);
  if (rope_theta > 0) {
    rotary_embedding_(x.q, position, rope_theta);
    rotary_embedding_(x.k, position, rope_theta);
  }
  const FlashAttentionOutput out = flash_attention_forward(x.q, x.k, x.v, options);
  const Shape merged{packed.size(0), packed.size(1), heads.heads * heads.value_dim};
  return record(
      "packed_attention", out.o.view(merged), {packed},
      [packed = SavedTensor(packed.data()), o = SavedTensor(out.o), lse = SavedTensor(out.lse),
       heads, position, rope_theta, options](const Tensor& dout) -> std::vector<Tensor> {
        const QueryKeyValue x = unpack_heads(packed.get(), heads);
        const Tensor dpacked = empty_like(packed.get());
        const QueryKeyValue dx = unpack_heads(dpacked, heads);
        FlashAttentionGradients grads{dx.q, dx.k, dx.v};
        flash_attention_backward_into(grads, dout.reshape(o.get().shape()), x.q, x.k, x.v, o.get(),
                                      lse.get(), options);
        if (rope_theta > 0) {
          rotary_embedding_(grads.dq, position, rope_theta, /*inverse=*/true);
          rotary_embedding_(grads.dk, position, rope_theta, /*inverse=*/true);
        }
        return {dpacked};
      });
}

Variable join_rows(const std::vector<Variable>& weights) {
  const Tensor& first = weights.front().data();
  int64_t rows = 0;
  bool adjacent = true;
  for (const Variable& weight : weights) {
    const Tensor& x = weight.data();
    adjacent &= x.storage() == first.storage() && x.dtype() == first.dtype() && x.is_contiguous() &&
                x.offset() == first.offset() + rows * first.size(1);
    rows += x.size(0);
  }
  if (!adjacent) return autograd::cat(weights, 0);
  const Shape shape{rows, first.size(1)};
  std::vector<int64_t> sizes;
  for (const Variable& weight : weights) sizes.push_back(weight.size(0));
  return record(
      "join_rows",
      Tensor(first.storage(), {shape, contiguous_strides(shape), first.offset()}, first.dtype()),
      weights, [sizes](const Tensor& dy) { return dy.split(sizes, 0); });
}

void pack_storage(std::vector<Variable>& weights) {
  int64_t rows = 0;
  for (const Variable& weight : weights) rows += weight.size(0);
  const Variable& first = weights.front();
  const Tensor packed = empty({rows, first.size(1)}, first.dtype(), first.device());
  int64_t row = 0;
  for (Variable& weight : weights) {
    Tensor piece = packed.slice(0, row, row + weight.size(0));
    piece.copy_(weight.data());
    row += weight.size(0);
    weight.set_data(piece);
  }
}

}  // namespace weft::attention
