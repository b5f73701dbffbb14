#include "reference/asa_reference.h"

#include <cmath>
#include <utility>

#include "reference/attention_reference.h"
#include "reference/compressor_reference.h"
#include "reference/rounding.h"

namespace weft::attention::reference {
namespace {

/// The compressors of latents and of rotary keys, and what they make.
struct Blocks {
  Blocks(const AsaGlobalLayer& layer, const Parameters& parameters, int64_t batch_in)
      : batch(batch_in),
        rope_dim(layer.latent.rope_dim),
        latents({.kind = layer.compressor,
                 .blocks = {.block = layer.block, .stride = layer.stride},
                 .heads = layer.latent.groups,
                 .dim = layer.latent.latent_dim},
                parameters, "latent_compressor.", batch_in),
        rope_keys({.kind = layer.compressor,
                   .blocks = {.block = layer.block, .stride = layer.stride},
                   .heads = 1,
                   .dim = rope_dim},
                  parameters, "rope_compressor.", batch_in) {}

  Matrix forward_rope_keys(const Matrix& raw) {
    return rope_dim == 0 ? Matrix(batch * latents.blocks(), 0) : rope_keys.forward(raw);
  }
  Matrix backward_rope_keys(const Matrix& dkeys, int64_t length, Parameters& gradients) const {
    return rope_dim == 0 ? Matrix(batch * length, 0) : rope_keys.backward(dkeys, gradients);
  }

  int64_t batch, rope_dim;
  Compressor latents, rope_keys;
};

Matrix turn_blocks(const AsaGlobalLayer& layer, const Matrix& keys, int64_t blocks, bool inverse) {
  const LatentLayer& latent = layer.latent;
  return latent.rope_dim == 0 || latent.rope_theta == 0
             ? keys
             : rotate(keys, blocks, latent.rope_dim, latent.rope_theta, latent.position, inverse,
                      layer.stride);
}

/// One branch, before and after its gate.
struct Branch {
  Matrix o, gate;  // [B T, H Dv] and [B T, H]
};

}  // namespace

LayerResult asa_global_layer(const AsaGlobalLayer& layer, const Parameters& parameters,
                             const Tensor& x, const Tensor& dy, const Selection* selection) {
  const LatentLayer& latent = layer.latent;
  const int64_t batch = x.size(0), length = x.size(1);
  const int64_t heads = latent.heads, dv = latent.value_dim;
  const auto split = [&](const Matrix& rows) { return reference::heads(rows, batch, heads); };
  const Matrix wo(parameters.at("o_proj.weight")), wg(parameters.at("gate_proj.weight")),
      bg(parameters.at("gate_proj.bias")), dout(dy);

  const LatentRows rows = latent_rows(latent, parameters, x);
  Blocks blocks(layer, parameters, batch);
  const Matrix block_latents = blocks.latents.forward(rows.latents);
  const Matrix block_keys = turn_blocks(layer, blocks.forward_rope_keys(rows.rope_keys_raw),
                                        blocks.latents.blocks(), false);
  const HeadKeys compressed = expand_latents(latent, parameters, block_latents, block_keys);
  const HeadKeys tokens = expand_latents(latent, parameters, rows.latents, rows.rope_keys);
  const FlashAttentionOptions blocks_seen{.scale = latent.scale(),
                                          .position = 0,
                                          .key_length = layer.block,
                                          .key_stride = layer.stride};
  const SelectedAttentionOptions tokens_seen{.scale = latent.scale()};
  const Tensor q = split(rows.q);

  std::vector<Branch> branches;
  if (layer.compressed) {
    branches.push_back(
        {merged(attention_forward(q, split(compressed.k), split(compressed.v), blocks_seen).o),
         {}});
  }
  if (layer.selected) {
    branches.push_back({merged(reference::selected_attention_forward(
                                   q, split(tokens.k), split(tokens.v), *selection, tokens_seen)
                                   .o),
                        {}});
  }
  const auto count = static_cast<int64_t>(branches.size());
  Matrix logits = times_transposed(rows.x, wg);
  Matrix o(batch * length, heads * dv);
  for (int64_t c = 0; c < count; ++c) {
    Branch& branch = branches[static_cast<size_t>(c)];
    branch.gate = Matrix(batch * length, heads);
    for (int64_t t = 0; t < batch * length; ++t) {
      for (int64_t h = 0; h < heads; ++h) {
        const int64_t gate = h * count + c;
        branch.gate.at(t, h) = rounded(sigmoid(logits.at(t, gate) + bg.at(0, gate)));
        for (int64_t e = h * dv; e < (h + 1) * dv; ++e)
          o.at(t, e) += branch.gate.at(t, h) * branch.o.at(t, e);
      }
    }
  }
  o = round_all(std::move(o));
  LayerResult result;
  result.y = times_transposed(o, wo).tensor(x.shape());

  const Matrix d_o = times(dout, wo);
  Matrix dlogits(batch * length, heads * count), dq(rows.q.rows, rows.q.columns);
  Matrix dlatents(rows.x.rows, rows.latents.columns), drope(rows.x.rows, latent.rope_dim),
      drope_raw(rows.x.rows, latent.rope_dim);
  for (int64_t c = 0; c < count; ++c) {
    const Branch& branch = branches[static_cast<size_t>(c)];
    Matrix dbranch = d_o;
    for (int64_t t = 0; t < batch * length; ++t) {
      for (int64_t h = 0; h < heads; ++h) {
        const double g = branch.gate.at(t, h);
        double e = 0;
        for (int64_t i = h * dv; i < (h + 1) * dv; ++i) {
          e += d_o.at(t, i) * branch.o.at(t, i);
          dbranch.at(t, i) *= g;
        }
        dlogits.at(t, h * count + c) = e * g * (1 - g);
      }
    }
    const Tensor dheads = split(round_all(std::move(dbranch)));
    if (layer.compressed && c == 0) {
      const FlashAttentionGradients grads =
          attention_backward(dheads, q, split(compressed.k), split(compressed.v), blocks_seen);
      dq = dq + merged(grads.dq);
      const LatentGradients back =
          expand_latents_backward(latent, parameters, block_latents,
                                  {merged(grads.dk), merged(grads.dv)}, result.gradients);
      dlatents = dlatents + blocks.latents.backward(back.latents, result.gradients);
      drope_raw = drope_raw + blocks.backward_rope_keys(
                                  turn_blocks(layer, back.rope_keys, blocks.latents.blocks(), true),
                                  length, result.gradients);
    } else {
      const FlashAttentionGradients grads = reference::selected_attention_backward(
          dheads, q, split(tokens.k), split(tokens.v), *selection, tokens_seen);
      dq = dq + merged(grads.dq);
      const LatentGradients back = expand_latents_backward(
          latent, parameters, rows.latents, {merged(grads.dk), merged(grads.dv)}, result.gradients);
      dlatents = dlatents + back.latents;
      drope = drope + back.rope_keys;
    }
  }
  dlogits = round_all(std::move(dlogits));
  Matrix dbias(1, heads * count);
  for (int64_t t = 0; t < batch * length; ++t) {
    for (int64_t i = 0; i < heads * count; ++i) dbias.at(0, i) += dlogits.at(t, i);
  }
  result.gradients["o_proj.weight"] = transposed_times(dout, o).tensor({wo.rows, wo.columns});
  result.gradients["gate_proj.weight"] =
      transposed_times(dlogits, rows.x).tensor({wg.rows, wg.columns});
  result.gradients["gate_proj.bias"] = round_all(std::move(dbias)).tensor({heads * count});
  const Matrix dx = latent_rows_backward(latent, parameters, rows, length, dq, dlatents, drope,
                                         drope_raw, result.gradients);
  result.dx = (dx + times(dlogits, wg)).tensor(x.shape());
  return result;
}

AsaSelectionInputs asa_selection_inputs(const AsaGlobalLayer& layer, const Parameters& parameters,
                                        const Tensor& x) {
  const LatentLayer& latent = layer.latent;
  const int64_t batch = x.size(0), length = x.size(1);
  Blocks blocks(layer, parameters, batch);
  const LatentRows rows = latent_rows(latent, parameters, x);
  const Matrix weight(parameters.at("kv_b_proj.weight"));
  const int64_t dn = latent.head_dim, dr = latent.rope_dim, dc = latent.latent_dim;
  Matrix q(batch * length, 0);
  for (int64_t h = 0; h < latent.heads; ++h) {
    Matrix keys(dn, dc);
    for (int64_t i = 0; i < dn; ++i) {
      for (int64_t j = 0; j < dc; ++j)
        keys.at(i, j) = weight.at(h * (dn + latent.value_dim) + i, j);
    }
    const int64_t begin = h * (dn + dr);
    q = beside(q, times(rows.q.part(begin, begin + dn), keys));
    q = beside(q, rows.q.part(begin + dn, begin + dn + dr));
  }
  const Matrix latents = blocks.latents.forward(rows.latents);
  const int64_t count = blocks.latents.blocks();
  const Matrix turned =
      turn_blocks(layer, blocks.forward_rope_keys(rows.rope_keys_raw), count, false);
  Matrix k(batch * count, 0);
  for (int64_t g = 0; g < latent.groups; ++g)
    k = beside(beside(k, latents.part(g * dc, (g + 1) * dc)), turned);
  return {q.tensor({batch, length, latent.heads, dc + dr}),
          k.tensor({batch, count, latent.groups, dc + dr})};
}

}  // namespace weft::attention::reference
