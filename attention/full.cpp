#include "weft/attention/full.h"

#include <cmath>

#include "weft/attention/kv_cache.h"
#include "weft/autograd/functions/linear.h"
#include "weft/tensor/check.h"
#include "weft/tensor/ops/rope.h"

namespace weft::attention {
namespace {

/// Fills in what 0 stands for and checks the rest.
FullAttentionOptions resolve(FullAttentionOptions options) {
  WEFT_CHECK(options.d_model >= 1, ConfigError,
             "full attention: d_model must be at least 1, got {}", options.d_model);
  WEFT_CHECK(options.n_heads >= 1, ConfigError,
             "full attention: n_heads must be at least 1, got {}", options.n_heads);
  if (options.n_kv_heads == 0) options.n_kv_heads = options.n_heads;
  WEFT_CHECK(options.n_kv_heads >= 1 && options.n_heads % options.n_kv_heads == 0, ConfigError,
             "full attention: n_heads ({}) must be a multiple of n_kv_heads ({})", options.n_heads,
             options.n_kv_heads);
  if (options.head_dim == 0) {
    WEFT_CHECK(options.d_model % options.n_heads == 0, ConfigError,
               "full attention: d_model ({}) must be a multiple of n_heads ({}) unless head_dim is "
               "given",
               options.d_model, options.n_heads);
    options.head_dim = options.d_model / options.n_heads;
  }
  WEFT_CHECK(options.head_dim >= 1, ConfigError,
             "full attention: head_dim must be at least 1, got {}", options.head_dim);
  WEFT_CHECK(std::isfinite(options.rope_theta) && options.rope_theta >= 0, ConfigError,
             "full attention: rope_theta must be above 0, or 0 for no rotation, got {}",
             options.rope_theta);
  WEFT_CHECK(options.rope_theta == 0 || options.head_dim % 2 == 0, ConfigError,
             "full attention: head_dim must be even for rotary positions, got {}",
             options.head_dim);
  WEFT_CHECK(
      options.init_std > 0 && options.output_init_std >= 0, ConfigError,
      "full attention: init_std must be above 0 and output_init_std not below, got {} and {}",
      options.init_std, options.output_init_std);
  if (options.output_init_std == 0) options.output_init_std = options.init_std;
  return options;
}

void check_input(const Variable& x, int64_t d_model) {
  WEFT_CHECK(x.defined() && x.rank() == 3 && x.size(2) == d_model, ShapeError,
             "full attention: x must be [B, T, {}], got {}", d_model,
             x.defined() ? x.data() : Tensor());
}

}  // namespace

FullAttention::FullAttention(const FullAttentionOptions& options, Generator& generator)
    : SequenceMixer("FullAttention"),
      options_(resolve(options)),
      split_{.heads = options_.n_heads,
             .kv_heads = options_.n_kv_heads,
             .head_dim = options_.head_dim},
      q_proj_(register_module<nn::Linear>(
          "q_proj", options_.d_model, split_.heads * split_.head_dim, generator,
          nn::LinearOptions{.bias = false, .init_std = options_.init_std})),
      k_proj_(register_module<nn::Linear>(
          "k_proj", options_.d_model, split_.kv_heads * split_.head_dim, generator,
          nn::LinearOptions{.bias = false, .init_std = options_.init_std})),
      v_proj_(register_module<nn::Linear>(
          "v_proj", options_.d_model, split_.kv_heads * split_.dv(), generator,
          nn::LinearOptions{.bias = false, .init_std = options_.init_std})),
      o_proj_(register_module<nn::Linear>(
          "o_proj", split_.heads * split_.dv(), options_.d_model, generator,
          nn::LinearOptions{.bias = false, .init_std = options_.output_init_std})) {
  // One product serves all three projections; their parameters stay separate by name.
  std::vector<Variable> weights = {q_proj_.weight, k_proj_.weight, v_proj_.weight};
  pack_storage(weights);
}

Variable FullAttention::project(const Variable& x) const {
  return autograd::linear(x, join_rows({q_proj_.weight, k_proj_.weight, v_proj_.weight}));
}

Variable FullAttention::forward(const Variable& x, const nn::MixerContext& context) {
  check_input(x, options_.d_model);
  const Variable o =
      packed_attention(project(x), split_, context.position, options_.rope_theta);  // [B, T, H Dv]
  return autograd::linear(o, o_proj_.weight);
}

std::unique_ptr<nn::MixerCache> FullAttention::make_cache(int64_t batch, int64_t capacity,
                                                          DType dtype, Device device) const {
  return std::make_unique<KvCache>(batch, capacity, split_.kv_heads, split_.head_dim, split_.dv(),
                                   dtype, device);
}

Variable FullAttention::prefill(const Variable& x, nn::MixerCache& cache) {
  const autograd::NoGradGuard no_grad;
  check_input(x, options_.d_model);
  auto* const kv = dynamic_cast<KvCache*>(&cache);
  WEFT_CHECK(kv != nullptr, ConfigError, "full attention: the cache was made by another mechanism");
  Qkv rows = split_qkv(project(x).data(), split_);
  if (options_.rope_theta > 0) {
    const RopeOptions rope{.theta = options_.rope_theta, .offset = kv->length()};
    rope_(rows.q, rope);
    rope_(rows.k, rope);
  }
  kv->append(rows.k, rows.v);
  const Tensor o = flash_attention_forward(rows.q, kv->keys(), kv->values()).o;  // [B, T, H, Dv]
  return autograd::linear(Variable(o.view({x.size(0), x.size(1), split_.heads * split_.dv()})),
                          o_proj_.weight);
}

namespace {

nn::MixerCost cost_of(const FullAttentionOptions& options, const QkvSplit& split, double tokens,
                      double pairs) {
  const auto width = static_cast<double>(split.width() + split.heads * split.dv());
  return {
      .projection_flops = 2 * static_cast<double>(options.d_model) * width * tokens,
      .core_flops = 2 * static_cast<double>(split.heads * (split.head_dim + split.dv())) * pairs};
}

}  // namespace

nn::MixerCost FullAttention::forward_cost(int64_t tokens) const {
  const auto t = static_cast<double>(tokens);
  return cost_of(options_, split_, t, t * (t + 1) / 2);
}

nn::MixerCost FullAttention::step_cost(int64_t context) const {
  return cost_of(options_, split_, 1, static_cast<double>(context) + 1);
}

int64_t FullAttention::cache_bytes(int64_t capacity, DType dtype) const {
  return capacity * split_.kv_heads * (split_.head_dim + split_.dv()) *
         static_cast<int64_t>(size_of(dtype));
}

std::string FullAttention::describe() const {
  return fmt::format("d_model={}, heads={}, kv_heads={}, head_dim={}, rope_theta={}",
                     options_.d_model, split_.heads, split_.kv_heads, split_.head_dim,
                     options_.rope_theta);
}

MechanismInfo full_mechanism() {
  return {
      .name = "full",
      .summary = "softmax attention over all earlier tokens (multi-head, grouped or multi-query)",
      .paper = "Vaswani et al., Attention Is All You Need, NeurIPS 2017 (arXiv 1706.03762)",
      .options = {{.name = "head-dim",
                   .kind = OptionKind::integer,
                   .default_value = "0",
                   .help = "width of a head; 0 means d-model / n-heads",
                   .min = 0,
                   .max = 1 << 16},
                  {.name = "rope",
                   .kind = OptionKind::boolean,
                   .default_value = "true",
                   .help = "rotate queries and keys by their positions"}},
      .make = [](const MixerShape& shape, const OptionValues& options, int /*layer*/,
                 Generator& generator) -> std::unique_ptr<nn::SequenceMixer> {
        return std::make_unique<FullAttention>(
            FullAttentionOptions{
                .d_model = shape.d_model,
                .n_heads = shape.n_heads,
                .n_kv_heads = shape.n_kv_heads,
                .head_dim = options.integer("head-dim"),
                .rope_theta = options.boolean("rope") ? shape.rope_theta : 0,
                .init_std = shape.init_std,
                .output_init_std =
                    shape.init_std / std::sqrt(2.0 * static_cast<double>(shape.n_layers))},
            generator);
      },
      .letter = 'F',
  };
}

}  // namespace weft::attention
