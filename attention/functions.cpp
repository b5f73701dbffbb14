#include "weft/attention/functions.h"

#include <utility>

#include "weft/attention/kernels/gated_sum.h"
#include "weft/autograd/node.h"
#include "weft/tensor/check.h"
#include "weft/tensor/ops/rope.h"

namespace weft::attention {

using autograd::record;
using autograd::SavedTensor;

Variable flash_attention(const Variable& q, const Variable& k, const Variable& v,
                         const FlashAttentionOptions& options) {
  return flash_attention_with_lse(q, k, v, options).o;
}

AttentionWithLse flash_attention_with_lse(const Variable& q, const Variable& k, const Variable& v,
                                          const FlashAttentionOptions& options) {
  const FlashAttentionOutput out = flash_attention_forward(q.data(), k.data(), v.data(), options);
  if (!autograd::grad_enabled()) return {Variable(out.o), out.lse};
  Variable o =
      record("flash_attention", out.o, {q, k, v},
             [q = SavedTensor(q.data()), k = SavedTensor(k.data()), v = SavedTensor(v.data()),
              o = SavedTensor(out.o), lse = SavedTensor(out.lse),
              options](const Tensor& dout) -> std::vector<Tensor> {
               const FlashAttentionGradients grads = flash_attention_backward(
                   dout, q.get(), k.get(), v.get(), o.get(), lse.get(), options);
               return {grads.dq, grads.dk, grads.dv};
             });
  return {std::move(o), out.lse};
}

Variable selected_attention(const Variable& q, const Variable& k, const Variable& v,
                            const Selection& selection, const SelectedAttentionOptions& options) {
  const FlashAttentionOutput out =
      selected_attention_forward(q.data(), k.data(), v.data(), selection, options);
  if (!autograd::grad_enabled()) return Variable(out.o);
  return record("selected_attention", out.o, {q, k, v},
                [q = SavedTensor(q.data()), k = SavedTensor(k.data()), v = SavedTensor(v.data()),
                 o = SavedTensor(out.o), lse = SavedTensor(out.lse), selection,
                 options](const Tensor& dout) -> std::vector<Tensor> {
                  const FlashAttentionGradients grads = selected_attention_backward(
                      dout, q.get(), k.get(), v.get(), o.get(), lse.get(), selection, options);
                  return {grads.dq, grads.dk, grads.dv};
                });
}

Variable gated_sum(const std::vector<Variable>& branches, const Variable& logits,
                   const Variable& bias) {
  std::vector<Tensor> values;
  values.reserve(branches.size());
  for (const Variable& branch : branches) values.push_back(branch.data());
  const Tensor bias_data = bias.defined() ? bias.data() : Tensor();
  Tensor y = gated_sum_forward(values, logits.data(), bias_data);
  if (!autograd::grad_enabled()) return Variable(std::move(y));
  std::vector<SavedTensor> saved(values.begin(), values.end());
  std::vector<Variable> inputs = branches;
  inputs.push_back(logits);
  inputs.push_back(bias);
  return record("gated_sum", std::move(y), inputs,
                [saved = std::move(saved), logits = SavedTensor(logits.data()),
                 bias = SavedTensor(bias_data)](const Tensor& dy) {
                  std::vector<Tensor> branches;
                  for (const SavedTensor& branch : saved) branches.push_back(branch.get());
                  GatedSumGradients grads =
                      gated_sum_backward(dy, branches, logits.get(), bias.get());
                  std::vector<Tensor> all = std::move(grads.dbranches);
                  all.push_back(grads.dlogits);
                  all.push_back(grads.dbias);
                  return all;
                });
}

namespace {

/// Queries and keys of packed [B, T, width], which lie side by side: [B, T, heads, D].
Tensor queries_and_keys(const Tensor& packed, const QkvSplit& split) {
  const int64_t heads = split.heads + split.kv_heads;
  return packed.slice(2, 0, heads * split.head_dim)
      .view({packed.size(0), packed.size(1), heads, split.head_dim});
}

}  // namespace

Variable packed_attention(const Variable& packed, const QkvSplit& split, int64_t position,
                          double rope_theta, const FlashAttentionOptions& options) {
  const Qkv x = split_qkv(packed.data(), split);
  const RopeOptions rope{.theta = rope_theta, .offset = position};
  if (rope_theta > 0) {
    Tensor turned = queries_and_keys(packed.data(), split);
    rope_(turned, rope);
  }
  const FlashAttentionOutput out = flash_attention_forward(x.q, x.k, x.v, options);
  const Shape merged{packed.size(0), packed.size(1), split.heads * split.dv()};
  return record("packed_attention", out.o.view(merged), {packed},
                [packed = SavedTensor(packed), turns_again = packed.recomputation() != nullptr,
                 o = SavedTensor(out.o), lse = SavedTensor(out.lse), split, rope,
                 options](const Tensor& dout) -> std::vector<Tensor> {
                  const Tensor turned = packed.get();
                  if (turns_again && rope.theta > 0) {
                    Tensor fresh = queries_and_keys(turned, split);
                    rope_(fresh, rope);
                  }
                  const Qkv x = split_qkv(turned, split);
                  const Tensor dpacked = empty_like(turned);
                  const Qkv dx = split_qkv(dpacked, split);
                  FlashAttentionGradients grads{dx.q, dx.k, dx.v};
                  flash_attention_backward_into(grads, dout.reshape(o.get().shape()), x.q, x.k, x.v,
                                                o.get(), lse.get(), options);
                  if (rope.theta > 0) {
                    Tensor turned_back = queries_and_keys(dpacked, split);
                    rope_into(turned_back, turned_back, rope, /*inverse=*/true);
                  }
                  return {dpacked};
                });
}

namespace {

std::vector<Tensor> views_of(const Tensor& packed, const std::vector<HeadsPart>& parts) {
  std::vector<Tensor> views;
  int64_t column = 0;
  for (const HeadsPart& part : parts) {
    views.push_back(packed.slice(2, column, column + part.width())
                        .view({packed.size(0), packed.size(1), part.heads, part.dim}));
    column += part.width();
  }
  return views;
}

}  // namespace

std::vector<Variable> split_heads(const Variable& packed, const std::vector<HeadsPart>& parts,
                                  const RopeOptions& rope) {
  int64_t width = 0;
  for (const HeadsPart& part : parts) width += part.width();
  WEFT_CHECK(packed.rank() == 3 && packed.size(2) == width, ShapeError,
             "split_heads: packed must be [B, T, {}], got {}", width, packed.data());
  std::vector<Tensor> views = views_of(packed.data(), parts);
  for (size_t i = 0; i < parts.size(); ++i) {
    if (parts[i].rotate) rope_(views[i], rope);
  }
  if (!autograd::grad_enabled()) {
    std::vector<Variable> variables;
    variables.reserve(views.size());
    for (Tensor& view : views) variables.emplace_back(std::move(view));
    return variables;
  }
  return record(
      "split_heads", views, {packed},
      [parts, rope, shape = packed.shape(), dtype = packed.dtype(),
       device = packed.device()](const std::vector<Tensor>& grads) -> std::vector<Tensor> {
        const Tensor dpacked = empty(shape, dtype, device);
        std::vector<Tensor> views = views_of(dpacked, parts);
        for (size_t i = 0; i < parts.size(); ++i) {
          if (!grads[i].defined()) {
            views[i].zero_();
          } else if (parts[i].rotate) {
            rope_into(views[i], grads[i], rope, /*inverse=*/true);
          } else {
            views[i].copy_(grads[i]);
          }
        }
        return {dpacked};
      });
}

}  // namespace weft::attention
