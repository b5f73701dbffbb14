#include "kernels/flash_attention_composite.h"

#include <limits>

#include "weft/tensor/ops/arithmetic.h"
#include "weft/tensor/ops/compare.h"
#include "weft/tensor/ops/matmul.h"
#include "weft/tensor/ops/reduce.h"
#include "weft/tensor/ops/unary.h"

#include "kernels/attention_arguments.h"

namespace weft::attention {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

/// x [B, T, Hk G, D] as [B, Hk, G, T, D] in the type of sums.
Tensor by_heads(const Tensor& x, int64_t kv_heads) {
  const Shape& s = x.shape();
  return x.to(statistics_type(x.dtype()))
      .permute({0, 2, 1, 3})
      .contiguous()
      .view({s[0], kv_heads, s[2] / kv_heads, s[1], s[3]});
}

/// The way back, in x's type.
Tensor by_tokens(const Tensor& heads, const Tensor& x) {
  const Shape& s = x.shape();
  return heads.contiguous().view({s[0], s[2], s[1], s[3]}).permute({0, 2, 1, 3}).to(x.dtype());
}

/// lse or another number per row [B, H, T] as [B, Hk, G, T, 1].
Tensor by_rows(const Tensor& rows, int64_t kv_heads) {
  const Shape& s = rows.shape();
  return rows.contiguous().view({s[0], kv_heads, s[1] / kv_heads, s[2], 1});
}

/// Scaled scores [B, Hk, G, T, S], -infinity where a query does not see a key.
Tensor masked_scores(const Tensor& q, const Tensor& k, const FlashAttentionParams& p) {
  const Tensor scores = mul(matmul(q, k.transpose(-1, -2)), p.scale);
  if (!p.causal && p.window == 0) return scores;
  const Device device = q.device();
  const Tensor token =
      arange(p.position, p.position + p.queries, 1, DType::i64, device).view({p.queries, 1});
  const Tensor key = arange(0, p.keys, 1, DType::i64, device).view({1, p.keys});
  Tensor seen = ge(key, 0);
  if (p.causal) {
    const int64_t last = p.key_length - 1;  // of the tokens of a key, from its first one
    seen = logical_and(
        seen,
        le(add(mul(key, static_cast<double>(p.key_stride)), static_cast<double>(last)), token));
  }
  if (p.window > 0) seen = logical_and(seen, gt(add(key, static_cast<double>(p.window)), token));
  return where(seen, scores, -kInfinity);
}

}  // namespace

FlashAttentionOutput composite_attention_forward(const Tensor& q, const Tensor& k, const Tensor& v,
                                                 const FlashAttentionParams& params) {
  const int64_t heads = params.kv_heads;
  const Tensor scores = masked_scores(by_heads(q, heads), by_heads(k, heads), params);
  const Tensor log_sum = logsumexp(scores, {-1}, true);
  const Tensor lse = where(eq(log_sum, -kInfinity), kInfinity, log_sum);  // rows without a key
  const Tensor o = matmul(exp(sub(scores, lse)), by_heads(v, heads));
  const Tensor like = empty({params.batch, params.queries, params.heads, params.value_dim},
                            params.dtype, q.device());
  return {by_tokens(o, like).contiguous(),
          lse.contiguous().view({params.batch, params.heads, params.queries})};
}

FlashAttentionGradients composite_attention_backward(const Tensor& dout, const Tensor& q,
                                                     const Tensor& k, const Tensor& v,
                                                     const Tensor& o, const Tensor& lse,
                                                     const FlashAttentionParams& params) {
  const int64_t heads = params.kv_heads;
  const Tensor q_heads = by_heads(q, heads), k_heads = by_heads(k, heads);
  const Tensor dout_heads = by_heads(dout, heads);
  const Tensor weights = exp(sub(masked_scores(q_heads, k_heads, params), by_rows(lse, heads)));
  const Tensor d_weights = matmul(dout_heads, by_heads(v, heads).transpose(-1, -2));
  const Tensor row_sums = sum(mul(dout_heads, by_heads(o, heads)), {-1}, true);
  const Tensor d_scores = mul(mul(weights, sub(d_weights, row_sums)), params.scale);
  // Keys and values of a group sum over its query heads.
  const auto of_group = [](const Tensor& rows, const Tensor& columns) {
    return sum(matmul(rows.transpose(-1, -2), columns), {2}, true);
  };
  return {by_tokens(matmul(d_scores, k_heads), q), by_tokens(of_group(d_scores, q_heads), k),
          by_tokens(of_group(weights, dout_heads), v)};
}

}  // namespace weft::attention
