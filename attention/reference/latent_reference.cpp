#include "reference/latent_reference.h"

#include <cmath>

#include "reference/attention_reference.h"

namespace weft::attention::reference {
namespace {

bool has(const Parameters& parameters, const char* name) {
  return parameters.find(name) != parameters.end();
}

void add_gradient(Parameters& gradients, const Parameters& parameters, const char* name,
                  const Matrix& gradient) {
  const Tensor tensor = gradient.tensor(parameters.at(name).shape());
  const auto found = gradients.find(name);
  gradients[name] = found == gradients.end()
                        ? tensor
                        : (Matrix(found->second) + Matrix(tensor)).tensor(tensor.shape());
}

/// Turns the last `rope_dim` of every head's head_dim + rope_dim channels.
Matrix turn_queries(const LatentLayer& layer, const Matrix& q, int64_t length, bool inverse) {
  if (layer.rope_dim == 0 || layer.rope_theta == 0) return q;
  const int64_t width = layer.head_dim + layer.rope_dim;
  Matrix out(q.rows, 0);
  for (int64_t h = 0; h < layer.heads; ++h) {
    const int64_t begin = h * width, middle = begin + layer.head_dim;
    out = beside(out, q.part(begin, middle));
    out = beside(out, rotate(q.part(middle, begin + width), length, layer.rope_dim,
                             layer.rope_theta, layer.position, inverse));
  }
  return out;
}

Matrix turn_keys(const LatentLayer& layer, const Matrix& keys, int64_t length, bool inverse) {
  return layer.rope_dim == 0 || layer.rope_theta == 0
             ? keys
             : rotate(keys, length, layer.rope_dim, layer.rope_theta, layer.position, inverse);
}

}  // namespace

double LatentLayer::scale() const {
  return 1 / std::sqrt(static_cast<double>(head_dim + rope_dim));
}

LatentRows latent_rows(const LatentLayer& layer, const Parameters& parameters, const Tensor& x) {
  const auto weight = [&](const char* name) { return Matrix(parameters.at(name)); };
  const int64_t length = x.size(1);
  LatentRows rows;
  rows.x = Matrix(x);
  if (has(parameters, "q_proj.weight")) {
    rows.q = times_transposed(rows.x, weight("q_proj.weight"));
  } else {
    rows.query_latent_raw = times_transposed(rows.x, weight("q_a_proj.weight"));
    rows.query_latent =
        has(parameters, "q_a_layernorm.weight")
            ? rms_norm(rows.query_latent_raw, weight("q_a_layernorm.weight"), layer.norm_eps)
            : rows.query_latent_raw;
    rows.q = times_transposed(rows.query_latent, weight("q_b_proj.weight"));
  }
  rows.q = turn_queries(layer, rows.q, length, false);

  const Matrix down = times_transposed(rows.x, weight("kv_a_proj_with_mqa.weight"));
  const int64_t width = layer.groups * layer.latent_dim;
  rows.latents_raw = down.part(0, width);
  rows.rope_keys_raw = down.part(width, width + layer.rope_dim);
  rows.rope_keys = turn_keys(layer, rows.rope_keys_raw, length, false);
  rows.latents = rows.latents_raw;
  if (has(parameters, "kv_a_layernorm.weight")) {
    const Matrix gain = weight("kv_a_layernorm.weight");
    rows.latents = Matrix(rows.x.rows, 0);
    for (int64_t begin = 0; begin < width; begin += layer.latent_dim) {
      const int64_t end = begin + layer.latent_dim;
      rows.latents = beside(rows.latents, rms_norm(rows.latents_raw.part(begin, end),
                                                   gain.part(begin, end), layer.norm_eps));
    }
  }
  return rows;
}

Matrix latent_rows_backward(const LatentLayer& layer, const Parameters& parameters,
                            const LatentRows& rows, int64_t length, const Matrix& dq,
                            const Matrix& dlatents, const Matrix& drope_keys,
                            const Matrix& drope_keys_raw, Parameters& gradients) {
  const auto weight = [&](const char* name) { return Matrix(parameters.at(name)); };
  const Matrix dq_raw = turn_queries(layer, dq, length, true);
  Matrix dx(rows.x.rows, rows.x.columns);
  if (has(parameters, "q_proj.weight")) {
    add_gradient(gradients, parameters, "q_proj.weight", transposed_times(dq_raw, rows.x));
    dx = times(dq_raw, weight("q_proj.weight"));
  } else {
    add_gradient(gradients, parameters, "q_b_proj.weight",
                 transposed_times(dq_raw, rows.query_latent));
    Matrix dlatent = times(dq_raw, weight("q_b_proj.weight"));
    if (has(parameters, "q_a_layernorm.weight")) {
      const RmsNormGradients norm = rms_norm_backward(
          dlatent, rows.query_latent_raw, weight("q_a_layernorm.weight"), layer.norm_eps);
      add_gradient(gradients, parameters, "q_a_layernorm.weight", norm.dgain);
      dlatent = norm.dx;
    }
    add_gradient(gradients, parameters, "q_a_proj.weight", transposed_times(dlatent, rows.x));
    dx = times(dlatent, weight("q_a_proj.weight"));
  }

  Matrix ddown = dlatents;
  if (has(parameters, "kv_a_layernorm.weight")) {
    const Matrix gain = weight("kv_a_layernorm.weight");
    Matrix dgain(1, 0);
    ddown = Matrix(rows.x.rows, 0);
    for (int64_t begin = 0; begin < gain.columns; begin += layer.latent_dim) {
      const int64_t end = begin + layer.latent_dim;
      const RmsNormGradients norm =
          rms_norm_backward(dlatents.part(begin, end), rows.latents_raw.part(begin, end),
                            gain.part(begin, end), layer.norm_eps);
      ddown = beside(ddown, norm.dx);
      dgain = beside(dgain, norm.dgain);
    }
    add_gradient(gradients, parameters, "kv_a_layernorm.weight", dgain);
  }
  ddown = beside(ddown, turn_keys(layer, drope_keys, length, true) + drope_keys_raw);
  add_gradient(gradients, parameters, "kv_a_proj_with_mqa.weight", transposed_times(ddown, rows.x));
  return dx + times(ddown, weight("kv_a_proj_with_mqa.weight"));
}

namespace {

/// Wuk_h [Dn, Dc] and Wuv_h [Dv, Dc].
struct HeadWeights {
  Matrix keys, values;
};

HeadWeights weights_of(const LatentLayer& layer, const Parameters& parameters, int64_t head) {
  const Matrix weight(parameters.at("kv_b_proj.weight"));
  HeadWeights out{Matrix(layer.head_dim, layer.latent_dim),
                  Matrix(layer.value_dim, layer.latent_dim)};
  const int64_t begin = head * (layer.head_dim + layer.value_dim);
  for (int64_t j = 0; j < layer.latent_dim; ++j) {
    for (int64_t i = 0; i < layer.head_dim; ++i) out.keys.at(i, j) = weight.at(begin + i, j);
    for (int64_t i = 0; i < layer.value_dim; ++i)
      out.values.at(i, j) = weight.at(begin + layer.head_dim + i, j);
  }
  return out;
}

Matrix latent_of(const LatentLayer& layer, const Matrix& latents, int64_t head) {
  const int64_t group = head / (layer.heads / layer.groups);
  return latents.part(group * layer.latent_dim, (group + 1) * layer.latent_dim);
}

}  // namespace

HeadKeys expand_latents(const LatentLayer& layer, const Parameters& parameters,
                        const Matrix& latents, const Matrix& rope_keys) {
  HeadKeys out{Matrix(latents.rows, 0), Matrix(latents.rows, 0)};
  for (int64_t h = 0; h < layer.heads; ++h) {
    const HeadWeights weights = weights_of(layer, parameters, h);
    const Matrix latent = latent_of(layer, latents, h);
    out.k = beside(out.k, beside(times_transposed(latent, weights.keys), rope_keys));
    out.v = beside(out.v, times_transposed(latent, weights.values));
  }
  return out;
}

LatentGradients expand_latents_backward(const LatentLayer& layer, const Parameters& parameters,
                                        const Matrix& latents, const HeadKeys& dkeys,
                                        Parameters& gradients) {
  LatentGradients out{Matrix(latents.rows, latents.columns), Matrix(latents.rows, layer.rope_dim)};
  Matrix dweight(layer.heads * (layer.head_dim + layer.value_dim), layer.latent_dim);
  for (int64_t h = 0; h < layer.heads; ++h) {
    const HeadWeights weights = weights_of(layer, parameters, h);
    const Matrix latent = latent_of(layer, latents, h);
    const int64_t key = h * (layer.head_dim + layer.rope_dim), middle = key + layer.head_dim;
    const Matrix dk = dkeys.k.part(key, middle);
    const Matrix dv = dkeys.v.part(h * layer.value_dim, (h + 1) * layer.value_dim);
    out.rope_keys = out.rope_keys + dkeys.k.part(middle, middle + layer.rope_dim);
    const Matrix dlatent = times(dk, weights.keys) + times(dv, weights.values);
    const int64_t group = h / (layer.heads / layer.groups);
    for (int64_t i = 0; i < latents.rows; ++i) {
      for (int64_t j = 0; j < layer.latent_dim; ++j)
        out.latents.at(i, group * layer.latent_dim + j) += dlatent.at(i, j);
    }
    const Matrix dwk = transposed_times(dk, latent), dwv = transposed_times(dv, latent);
    const int64_t row = h * (layer.head_dim + layer.value_dim);
    for (int64_t j = 0; j < layer.latent_dim; ++j) {
      for (int64_t i = 0; i < layer.head_dim; ++i) dweight.at(row + i, j) = dwk.at(i, j);
      for (int64_t i = 0; i < layer.value_dim; ++i)
        dweight.at(row + layer.head_dim + i, j) = dwv.at(i, j);
    }
  }
  add_gradient(gradients, parameters, "kv_b_proj.weight", dweight);
  return out;
}

LayerResult latent_layer(const LatentLayer& layer, const Parameters& parameters, const Tensor& x,
                         const Tensor& dy) {
  const int64_t batch = x.size(0), length = x.size(1);
  const auto by_head = [&](const Matrix& rows) { return heads(rows, batch, layer.heads); };
  const Matrix wo(parameters.at("o_proj.weight")), dout(dy);

  const LatentRows rows = latent_rows(layer, parameters, x);
  const HeadKeys keys = expand_latents(layer, parameters, rows.latents, rows.rope_keys);
  const FlashAttentionOptions options{.window = layer.window, .scale = layer.scale()};
  const Matrix o =
      merged(attention_forward(by_head(rows.q), by_head(keys.k), by_head(keys.v), options).o);
  LayerResult result;
  result.y = times_transposed(o, wo).tensor(x.shape());

  result.gradients["o_proj.weight"] = transposed_times(dout, o).tensor({wo.rows, wo.columns});
  const FlashAttentionGradients grads = attention_backward(
      by_head(times(dout, wo)), by_head(rows.q), by_head(keys.k), by_head(keys.v), options);
  const LatentGradients dlatents = expand_latents_backward(
      layer, parameters, rows.latents, {merged(grads.dk), merged(grads.dv)}, result.gradients);
  result.dx = latent_rows_backward(layer, parameters, rows, length, merged(grads.dq),
                                   dlatents.latents, dlatents.rope_keys,
                                   Matrix(rows.x.rows, layer.rope_dim), result.gradients)
                  .tensor(x.shape());
  return result;
}

}  // namespace weft::attention::reference
