#include "weft/attention/latent_mixer.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "weft/attention/head_linear.h"
#include "weft/attention/kernels/latent_attention.h"
#include "weft/autograd/functions/join.h"
#include "weft/autograd/functions/linear.h"
#include "weft/autograd/functions/rms_norm.h"
#include "weft/autograd/functions/rope.h"
#include "weft/autograd/functions/view.h"
#include "weft/tensor/check.h"

namespace weft::attention {
namespace {

/// Fills in what 0 stands for and checks the rest.
LatentOptions resolve(const char* name, LatentOptions options) {
  const auto at_least = [&](const char* option, int64_t value, int64_t least) {
    WEFT_CHECK(value >= least, ConfigError, "{}: {} must be at least {}, got {}", name, option,
               least, value);
  };
  at_least("d_model", options.d_model, 1);
  at_least("n_heads", options.n_heads, 1);
  at_least("groups", options.groups, 1);
  at_least("window", options.window, 0);
  at_least("query_latent_dim", options.query_latent_dim, 0);
  WEFT_CHECK(options.n_heads % options.groups == 0, ConfigError,
             "{}: n_heads ({}) must be a multiple of groups ({})", name, options.n_heads,
             options.groups);
  at_least("n_kv_heads", options.n_kv_heads, 0);
  WEFT_CHECK(options.n_kv_heads == 0 || options.n_heads % options.n_kv_heads == 0, ConfigError,
             "{}: n_heads ({}) must be a multiple of n_kv_heads ({})", name, options.n_heads,
             options.n_kv_heads);
  if (options.head_dim == 0) {
    WEFT_CHECK(options.d_model % options.n_heads == 0, ConfigError,
               "{}: d_model ({}) must be a multiple of n_heads ({}) unless head_dim is given", name,
               options.d_model, options.n_heads);
    options.head_dim = options.d_model / options.n_heads;
  }
  at_least("head_dim", options.head_dim, 1);
  if (options.value_dim == 0) options.value_dim = options.head_dim;
  at_least("value_dim", options.value_dim, 1);
  if (options.latent_dim == 0) {
    const int64_t kv_heads = options.n_kv_heads == 0 ? options.n_heads : options.n_kv_heads;
    options.latent_dim = std::max<int64_t>(1, kv_heads * options.head_dim / options.groups);
  }
  at_least("latent_dim", options.latent_dim, 1);
  if (!options.rotary_part) {
    options.rope_dim = 0;
  } else {
    if (options.rope_dim == 0) options.rope_dim = (options.head_dim + 3) / 4 * 2;
    WEFT_CHECK(options.rope_dim >= 2 && options.rope_dim % 2 == 0, ConfigError,
               "{}: rope_dim must be even and at least 2, got {}", name, options.rope_dim);
  }
  WEFT_CHECK(std::isfinite(options.rope_theta) && options.rope_theta >= 0, ConfigError,
             "{}: rope_theta must be above 0, or 0 for no rotation, got {}", name,
             options.rope_theta);
  WEFT_CHECK(options.norm_eps >= 0, ConfigError, "{}: norm_eps must be at least 0, got {}", name,
             options.norm_eps);
  WEFT_CHECK(options.init_std > 0 && options.output_init_std >= 0, ConfigError,
             "{}: init_std must be above 0 and output_init_std not below, got {} and {}", name,
             options.init_std, options.output_init_std);
  if (options.output_init_std == 0) options.output_init_std = options.init_std;
  return options;
}

}  // namespace

LatentMixer::LatentMixer(std::string type_name, const char* name, const LatentOptions& options,
                         Generator& generator)
    : SequenceMixer(std::move(type_name)), name_(name), options_(resolve(name, options)) {
  const LatentOptions& o = options_;
  const auto linear = [&](const char* field, int64_t in, int64_t out, double init_std) {
    return &register_module<nn::Linear>(field, in, out, generator,
                                        nn::LinearOptions{.bias = false, .init_std = init_std});
  };
  const int64_t query_width = o.n_heads * (o.head_dim + o.rope_dim);
  if (o.query_latent_dim == 0) {
    q_proj_ = linear("q_proj", o.d_model, query_width, o.init_std);
  } else {
    q_a_proj_ = linear("q_a_proj", o.d_model, o.query_latent_dim, o.init_std);
    if (o.normalize)
      q_a_layernorm_ =
          &register_module<nn::RMSNorm>("q_a_layernorm", o.query_latent_dim, o.norm_eps);
    q_b_proj_ = linear("q_b_proj", o.query_latent_dim, query_width, o.init_std);
  }
  const int64_t latents = o.groups * o.latent_dim;
  kv_a_proj_ = linear("kv_a_proj_with_mqa", o.d_model, latents + o.rope_dim, o.init_std);
  if (o.normalize) {
    kv_a_layernorm_ = &register_module<nn::RMSNorm>("kv_a_layernorm", latents, o.norm_eps);
  }
  kv_b_proj_ =
      linear("kv_b_proj", o.latent_dim, o.n_heads * (o.head_dim + o.value_dim), o.init_std);
  o_proj_ = linear("o_proj", o.n_heads * o.value_dim, o.d_model, o.output_init_std);
}

void LatentMixer::check_input(const Variable& x) const {
  WEFT_CHECK(x.defined() && x.rank() == 3 && x.size(2) == options_.d_model, ShapeError,
             "{}: x must be [B, T, {}], got {}", name_, options_.d_model,
             x.defined() ? x.data() : Tensor());
}

double LatentMixer::scale() const {
  return 1 / std::sqrt(static_cast<double>(options_.head_dim + options_.rope_dim));
}

LatentMixer::Rows LatentMixer::project(const Variable& x, int64_t position) const {
  const LatentOptions& o = options_;
  const int64_t batch = x.size(0), tokens = x.size(1);
  Rows rows;
  if (q_proj_ != nullptr) {
    rows.q = q_proj_->forward(x);
  } else {
    Variable latent = q_a_proj_->forward(x);
    if (q_a_layernorm_ != nullptr) latent = q_a_layernorm_->forward(latent);
    rows.q = q_b_proj_->forward(latent);
  }
  rows.q = autograd::view(rows.q, {batch, tokens, o.n_heads, o.head_dim + o.rope_dim});
  if (o.rope_dim > 0 && o.rope_theta > 0) {
    rows.q = autograd::rope(
        rows.q, {.theta = o.rope_theta, .rotary_begin = o.head_dim, .offset = position});
  }

  Variable compressed = kv_a_proj_->forward(x);  // [B, T, G Dc + Dr]
  const int64_t width = o.groups * o.latent_dim;
  if (o.rope_dim > 0) {
    const std::vector<Variable> parts =
        autograd::split(compressed, std::array{width, o.rope_dim}, 2);
    compressed = parts[0];
    rows.rope_keys = autograd::unsqueeze(parts[1], 2);
  }
  if (kv_a_layernorm_ == nullptr || o.groups == 1) {
    if (kv_a_layernorm_ != nullptr) compressed = kv_a_layernorm_->forward(compressed);
    rows.latents = autograd::view(compressed, {batch, tokens, o.groups, o.latent_dim});
    return rows;
  }
  // A group is normalised by itself.
  const std::vector<Variable> gains = autograd::split(kv_a_layernorm_->weight, o.latent_dim, 0);
  std::vector<Variable> groups = autograd::split(compressed, o.latent_dim, 2);
  for (size_t g = 0; g < groups.size(); ++g)
    groups[g] = autograd::rms_norm(groups[g], gains[g], o.norm_eps);
  rows.latents = autograd::stack(groups, 2);
  return rows;
}

Variable LatentMixer::turn(const Variable& rope_keys, int64_t position, int64_t stride) const {
  if (!rope_keys.defined() || options_.rope_theta == 0) return rope_keys;
  return autograd::rope(rope_keys,
                        {.theta = options_.rope_theta, .offset = position, .stride = stride});
}

LatentMixer::KeysValues LatentMixer::expand(const Variable& latents,
                                            const Variable& rope_keys) const {
  const LatentOptions& o = options_;
  const int64_t batch = latents.size(0), tokens = latents.size(1);
  const int64_t rows = o.n_heads / o.groups * (o.head_dim + o.value_dim);
  const Variable heads =
      autograd::view(head_linear(latents, kv_b_proj_->weight, {o.groups, 0, rows}),
                     {batch, tokens, o.n_heads, o.head_dim + o.value_dim});
  const std::vector<Variable> parts =
      autograd::split(heads, std::array{o.head_dim, o.value_dim}, 3);
  if (o.rope_dim == 0) return {parts[0], parts[1]};
  const Variable shared = autograd::expand(rope_keys, {batch, tokens, o.n_heads, o.rope_dim});
  return {autograd::cat({parts[0], shared}, 3), parts[1]};
}

LatentMixer::KeysValues LatentMixer::join(const Variable& latents,
                                          const Variable& rope_keys) const {
  if (options_.rope_dim == 0) return {latents, latents};
  const Variable shared = autograd::expand(
      rope_keys, {latents.size(0), latents.size(1), options_.groups, options_.rope_dim});
  return {autograd::cat({latents, shared}, 3), latents};
}

LatentMixer::AbsorbedQueries LatentMixer::absorb(const Variable& q) const {
  const LatentOptions& o = options_;
  const HeadRows keys{o.n_heads, 0, o.head_dim};
  if (o.rope_dim == 0)
    return {head_linear(q, kv_b_proj_->weight, keys, /*transposed=*/true), Variable()};
  const std::vector<Variable> parts = autograd::split(q, std::array{o.head_dim, o.rope_dim}, 3);
  return {head_linear(parts[0], kv_b_proj_->weight, keys, /*transposed=*/true), parts[1]};
}

Variable LatentMixer::AbsorbedQueries::joined() const {
  return rope.defined() ? autograd::cat({latent, rope}, 3) : latent;
}

namespace {

/// The rotary part of keys or queries, of width 0 where there is none.
Tensor rope_part(const Variable& rope, const Tensor& like, int64_t heads) {
  if (rope.defined()) return rope.data();
  return empty({like.size(0), like.size(1), heads, 0}, like.dtype(), like.device());
}

}  // namespace

AttentionWithLse LatentMixer::attend_latents(const AbsorbedQueries& q, const Variable& latents,
                                             const Variable& rope_keys,
                                             FlashAttentionOptions visible) const {
  visible.scale = scale();
  if (autograd::grad_enabled()) {
    const KeysValues keys = join(latents, rope_keys);
    return flash_attention_with_lse(q.joined(), keys.k, keys.v, visible);
  }
  const FlashAttentionOutput out = latent_attention_forward(
      q.latent.data(), rope_part(q.rope, q.latent.data(), q.latent.size(2)), latents.data(),
      rope_part(rope_keys, latents.data(), 1), visible);
  return {Variable(out.o), out.lse};
}

ScoredAttentionOutput LatentMixer::attend_scored_latents(const AbsorbedQueries& q,
                                                         const Variable& latents,
                                                         const Variable& rope_keys,
                                                         FlashAttentionOptions visible) const {
  visible.scale = scale();
  return scored_latent_attention_forward(
      q.latent.data(), rope_part(q.rope, q.latent.data(), q.latent.size(2)), latents.data(),
      rope_part(rope_keys, latents.data(), 1), visible);
}

Variable LatentMixer::attend_selected_latents(const AbsorbedQueries& q, const Variable& latents,
                                              const Variable& rope_keys,
                                              const Selection& selection) const {
  const SelectedAttentionOptions options{.scale = scale()};
  if (autograd::grad_enabled()) {
    const KeysValues keys = join(latents, rope_keys);
    return selected_attention(q.joined(), keys.k, keys.v, selection, options);
  }
  return Variable(selected_latent_attention_forward(
                      q.latent.data(), rope_part(q.rope, q.latent.data(), q.latent.size(2)),
                      latents.data(), rope_part(rope_keys, latents.data(), 1), selection, options)
                      .o);
}

Variable LatentMixer::values_of(const Variable& weighted) const {
  return head_linear(weighted, kv_b_proj_->weight,
                     {options_.n_heads, options_.head_dim, options_.head_dim + options_.value_dim});
}

Variable LatentMixer::output(const Variable& heads) const {
  const Shape merged{heads.size(0), heads.size(1), options_.n_heads * options_.value_dim};
  return o_proj_->forward(autograd::view(heads, merged));
}

double LatentMixer::projection_flops() const {
  const LatentOptions& o = options_;
  const auto d_model = static_cast<double>(o.d_model);
  const auto query_width = static_cast<double>(o.n_heads * (o.head_dim + o.rope_dim));
  const auto query_latent = static_cast<double>(o.query_latent_dim);
  const double queries = query_latent == 0 ? d_model * query_width
                                           : d_model * query_latent + query_latent * query_width;
  return 2 * (queries + d_model * static_cast<double>(o.groups * o.latent_dim + o.rope_dim) +
              static_cast<double>(o.latent_dim * o.n_heads * (o.head_dim + o.value_dim)) +
              d_model * static_cast<double>(o.n_heads * o.value_dim));
}

double LatentMixer::naive_flops() const {
  const LatentOptions& o = options_;
  return 2 * static_cast<double>(o.n_heads * (o.head_dim + o.rope_dim + o.value_dim));
}

double LatentMixer::absorbed_flops() const {
  const LatentOptions& o = options_;
  return 2 * static_cast<double>(o.n_heads * (2 * o.latent_dim + o.rope_dim));
}

}  // namespace weft::attention
