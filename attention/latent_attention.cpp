#include "weft/attention/latent_attention.h"

#include <algorithm>
#include <cmath>

#include "weft/attention/latent_cache.h"
#include "weft/attention/visible_pairs.h"
#include "weft/tensor/check.h"

namespace weft::attention {
namespace {

const char* name_of(const LatentOptions& options) {
  if (options.groups > 1) return "grouped latent attention";
  return options.window > 0 ? "latent attention over a window" : "latent attention";
}

}  // namespace

LatentAttention::LatentAttention(const LatentOptions& options, Generator& generator)
    : LatentMixer("LatentAttention", name_of(options), options, generator) {}

Variable LatentAttention::attend(bool absorbed, const Variable& q, const Variable& latents,
                                 const Variable& rope_keys,
                                 const FlashAttentionOptions& visible) const {
  if (absorbed) return values_of(attend_latents(absorb(q), latents, rope_keys, visible).o);
  FlashAttentionOptions attention = visible;
  attention.scale = scale();
  const KeysValues heads = expand(latents, rope_keys);
  return flash_attention(q, heads.k, heads.v, attention);
}

Variable LatentAttention::forward(const Variable& x, const nn::MixerContext& context) {
  check_input(x);
  const Rows rows = project(x, context.position);
  return output(attend(options_.form == LatentForm::absorbed, rows.q, rows.latents,
                       turn(rows.rope_keys, context.position), {.window = options_.window}));
}

std::unique_ptr<nn::MixerCache> LatentAttention::make_cache(int64_t batch, int64_t capacity,
                                                            DType dtype, Device device) const {
  return std::make_unique<LatentCache>(batch, capacity, options_.window, options_.groups,
                                       options_.latent_dim, options_.rope_dim, dtype, device);
}

Variable LatentAttention::prefill(const Variable& x, nn::MixerCache& cache) {
  const autograd::NoGradGuard no_grad;
  check_input(x);
  auto* const latent_cache = dynamic_cast<LatentCache*>(&cache);
  WEFT_CHECK(latent_cache != nullptr, ConfigError, "{}: the cache was made by another mechanism",
             name_);
  const int64_t earlier = cache.length(), tokens = x.size(1);
  const Rows rows = project(x, earlier);
  const Variable turned = turn(rows.rope_keys, earlier);
  const LatentCache::Rows seen =
      latent_cache->extend(rows.latents.data(), turned.defined() ? turned.data() : Tensor());

  // Keys and values of all heads pay for themselves where many queries read them.
  const double pairs =
      visible_pairs(earlier + tokens, options_.window) - visible_pairs(earlier, options_.window);
  const double per_row = 2 * static_cast<double>(options_.latent_dim * options_.n_heads *
                                                 (options_.head_dim + options_.value_dim));
  const double naive = naive_flops() * pairs + per_row * static_cast<double>(seen.latents.size(1));
  const double absorbed = absorbed_flops() * pairs + per_row * static_cast<double>(tokens);
  FlashAttentionOptions visible{.window = options_.window};
  if (seen.unmasked) visible = {.causal = false};
  return output(attend(absorbed <= naive, rows.q, Variable(seen.latents),
                       seen.rope_keys.defined() ? Variable(seen.rope_keys) : Variable(), visible));
}

nn::MixerCost LatentAttention::forward_cost(int64_t tokens) const {
  const double pair = options_.form == LatentForm::absorbed ? absorbed_flops() : naive_flops();
  return {.projection_flops = projection_flops() * static_cast<double>(tokens),
          .core_flops = pair * visible_pairs(tokens, options_.window)};
}

nn::MixerCost LatentAttention::step_cost(int64_t context) const {
  return {.projection_flops = projection_flops(),
          .core_flops =
              absorbed_flops() * static_cast<double>(rows_kept(context + 1, options_.window))};
}

int64_t LatentAttention::cache_bytes(int64_t capacity, DType dtype) const {
  return rows_kept(capacity, options_.window) *
         (options_.groups * options_.latent_dim + options_.rope_dim) *
         static_cast<int64_t>(size_of(dtype));
}

std::string LatentAttention::describe() const {
  const LatentOptions& o = options_;
  std::string text = fmt::format(
      "d_model={}, heads={}, groups={}, head_dim={}, value_dim={}, latent_dim={}, rope_dim={}",
      o.d_model, o.n_heads, o.groups, o.head_dim, o.value_dim, o.latent_dim, o.rope_dim);
  if (o.query_latent_dim > 0) text += fmt::format(", query_latent_dim={}", o.query_latent_dim);
  if (o.window > 0) text += fmt::format(", window={}", o.window);
  return text;
}

}  // namespace weft::attention
