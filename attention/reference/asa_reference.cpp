#include "reference/asa_reference.h"

#include <cmath>
#include <utility>

#include "reference/attention_reference.h"

namespace weft::attention::reference {
namespace {

int64_t blocks_in(const AsaGlobalLayer& layer, int64_t length) {
  return length < layer.block ? 0 : (length - layer.block) / layer.stride + 1;
}

/// The mean of every complete block of each sequence.
Matrix block_means(const AsaGlobalLayer& layer, const Matrix& rows, int64_t batch, int64_t length) {
  const int64_t blocks = blocks_in(layer, length);
  Matrix out(batch * blocks, rows.columns);
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t i = 0; i < blocks; ++i) {
      for (int64_t m = 0; m < layer.block; ++m) {
        for (int64_t j = 0; j < rows.columns; ++j) {
          out.at(b * blocks + i, j) +=
              rows.at(b * length + i * layer.stride + m, j) / static_cast<double>(layer.block);
        }
      }
    }
  }
  return out;
}

Matrix block_means_backward(const AsaGlobalLayer& layer, const Matrix& dmeans, int64_t batch,
                            int64_t length) {
  const int64_t blocks = blocks_in(layer, length);
  Matrix out(batch * length, dmeans.columns);
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t i = 0; i < blocks; ++i) {
      for (int64_t m = 0; m < layer.block; ++m) {
        for (int64_t j = 0; j < dmeans.columns; ++j) {
          out.at(b * length + i * layer.stride + m, j) +=
              dmeans.at(b * blocks + i, j) / static_cast<double>(layer.block);
        }
      }
    }
  }
  return out;
}

Matrix turn_blocks(const AsaGlobalLayer& layer, const Matrix& keys, int64_t blocks, bool inverse) {
  const LatentLayer& latent = layer.latent;
  return latent.rope_dim == 0 || latent.rope_theta == 0
             ? keys
             : rotate(keys, blocks, latent.rope_dim, latent.rope_theta, latent.position, inverse,
                      layer.stride);
}

Matrix merged(const Tensor& rows) {
  Matrix out(rows.size(0) * rows.size(1), rows.size(2) * rows.size(3));
  out.values = rows.to_vector<double>();
  return out;
}

/// One branch, before and after its gate.
struct Branch {
  Matrix o, gate;  // [B T, H Dv] and [B T, H]
};

}  // namespace

LayerResult asa_global_layer(const AsaGlobalLayer& layer, const Parameters& parameters,
                             const Tensor& x, const Tensor& dy, const Selection* selection) {
  const LatentLayer& latent = layer.latent;
  const int64_t batch = x.size(0), length = x.size(1), blocks = blocks_in(layer, length);
  const int64_t heads = latent.heads, dv = latent.value_dim;
  const auto split = [&](const Matrix& rows, int64_t tokens) {
    return rows.tensor({batch, tokens, heads, rows.columns / heads});
  };
  const Matrix wo(parameters.at("o_proj.weight")), wg(parameters.at("gate_proj.weight")),
      bg(parameters.at("gate_proj.bias")), dout(dy);

  const LatentRows rows = latent_rows(latent, parameters, x);
  const Matrix block_latents = block_means(layer, rows.latents, batch, length);
  const Matrix block_keys =
      turn_blocks(layer, block_means(layer, rows.rope_keys_raw, batch, length), blocks, false);
  const HeadKeys compressed = expand_latents(latent, parameters, block_latents, block_keys);
  const HeadKeys tokens = expand_latents(latent, parameters, rows.latents, rows.rope_keys);
  const FlashAttentionOptions blocks_seen{.scale = latent.scale(),
                                          .position = 0,
                                          .key_length = layer.block,
                                          .key_stride = layer.stride};
  const SelectedAttentionOptions tokens_seen{.scale = latent.scale()};
  const Tensor q = split(rows.q, length);

  std::vector<Branch> branches;
  if (layer.compressed) {
    branches.push_back({merged(attention_forward(q, split(compressed.k, blocks),
                                                 split(compressed.v, blocks), blocks_seen)
                                   .o),
                        {}});
  }
  if (layer.selected) {
    branches.push_back(
        {merged(reference::selected_attention_forward(
                    q, split(tokens.k, length), split(tokens.v, length), *selection, tokens_seen)
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
        branch.gate.at(t, h) = 1 / (1 + std::exp(-logits.at(t, gate) - bg.at(0, gate)));
        for (int64_t e = h * dv; e < (h + 1) * dv; ++e)
          o.at(t, e) += branch.gate.at(t, h) * branch.o.at(t, e);
      }
    }
  }
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
    const Tensor dheads = split(dbranch, length);
    if (layer.compressed && c == 0) {
      const FlashAttentionGradients grads = attention_backward(
          dheads, q, split(compressed.k, blocks), split(compressed.v, blocks), blocks_seen);
      dq = dq + merged(grads.dq);
      const LatentGradients back =
          expand_latents_backward(latent, parameters, block_latents,
                                  {merged(grads.dk), merged(grads.dv)}, result.gradients);
      dlatents = dlatents + block_means_backward(layer, back.latents, batch, length);
      drope_raw =
          drope_raw + block_means_backward(layer, turn_blocks(layer, back.rope_keys, blocks, true),
                                           batch, length);
    } else {
      const FlashAttentionGradients grads = reference::selected_attention_backward(
          dheads, q, split(tokens.k, length), split(tokens.v, length), *selection, tokens_seen);
      dq = dq + merged(grads.dq);
      const LatentGradients back = expand_latents_backward(
          latent, parameters, rows.latents, {merged(grads.dk), merged(grads.dv)}, result.gradients);
      dlatents = dlatents + back.latents;
      drope = drope + back.rope_keys;
    }
  }
  Matrix dbias(1, heads * count);
  for (int64_t t = 0; t < batch * length; ++t) {
    for (int64_t i = 0; i < heads * count; ++i) dbias.at(0, i) += dlogits.at(t, i);
  }
  result.gradients["o_proj.weight"] = transposed_times(dout, o).tensor({wo.rows, wo.columns});
  result.gradients["gate_proj.weight"] =
      transposed_times(dlogits, rows.x).tensor({wg.rows, wg.columns});
  result.gradients["gate_proj.bias"] = dbias.tensor({heads * count});
  const Matrix dx = latent_rows_backward(latent, parameters, rows, length, dq, dlatents, drope,
                                         drope_raw, result.gradients);
  result.dx = (dx + times(dlogits, wg)).tensor(x.shape());
  return result;
}

AsaSelectionInputs asa_selection_inputs(const AsaGlobalLayer& layer, const Parameters& parameters,
                                        const Tensor& x) {
  const LatentLayer& latent = layer.latent;
  const int64_t batch = x.size(0), length = x.size(1), blocks = blocks_in(layer, length);
  const LatentRows rows = latent_rows(latent, parameters, x);
  const Matrix weight(parameters.at("kv_b_proj.weight"));
  const int64_t dn = latent.head_dim, dr = latent.rope_dim, dc = latent.latent_dim;
  Matrix q(batch * length, 0), k(batch * blocks, 0);
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
  const Matrix latents = block_means(layer, rows.latents, batch, length);
  const Matrix turned =
      turn_blocks(layer, block_means(layer, rows.rope_keys_raw, batch, length), blocks, false);
  for (int64_t g = 0; g < latent.groups; ++g)
    k = beside(beside(k, latents.part(g * dc, (g + 1) * dc)), turned);
  return {q.tensor({batch, length, latent.heads, dc + dr}),
          k.tensor({batch, blocks, latent.groups, dc + dr})};
}

}  // namespace weft::attention::reference
