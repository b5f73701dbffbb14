#include "weft/attention/full.h"

#include <cmath>

#include "weft/attention/kv_cache.h"
#include "weft/attention/visible_pairs.h"
#include "weft/attention/window_cache.h"
#include "weft/autograd/functions/join.h"
#include "weft/autograd/functions/linear.h"
#include "weft/tensor/check.h"
#include "weft/tensor/ops/rope.h"

#include "option_list.h"

namespace weft::attention {
namespace {

/// How errors call the mechanism.
const char* name_of(const FullAttentionOptions& options) {
  return options.window == 0 ? "full attention" : "sliding-window attention";
}

/// Fills in what 0 stands for and checks the rest.
FullAttentionOptions resolve(FullAttentionOptions options) {
  const char* const who = name_of(options);
  WEFT_CHECK(options.window >= 0, ConfigError,
             "{}: window must be at least 1, or 0 for all tokens, got {}", who, options.window);
  WEFT_CHECK(options.d_model >= 1, ConfigError, "{}: d_model must be at least 1, got {}", who,
             options.d_model);
  WEFT_CHECK(options.n_heads >= 1, ConfigError, "{}: n_heads must be at least 1, got {}", who,
             options.n_heads);
  if (options.n_kv_heads == 0) options.n_kv_heads = options.n_heads;
  WEFT_CHECK(options.n_kv_heads >= 1 && options.n_heads % options.n_kv_heads == 0, ConfigError,
             "{}: n_heads ({}) must be a multiple of n_kv_heads ({})", who, options.n_heads,
             options.n_kv_heads);
  if (options.head_dim == 0) {
    WEFT_CHECK(options.d_model % options.n_heads == 0, ConfigError,
               "{}: d_model ({}) must be a multiple of n_heads ({}) unless head_dim is "
               "given",
               who, options.d_model, options.n_heads);
    options.head_dim = options.d_model / options.n_heads;
  }
  WEFT_CHECK(options.head_dim >= 1, ConfigError, "{}: head_dim must be at least 1, got {}", who,
             options.head_dim);
  WEFT_CHECK(std::isfinite(options.rope_theta) && options.rope_theta >= 0, ConfigError,
             "{}: rope_theta must be above 0, or 0 for no rotation, got {}", who,
             options.rope_theta);
  WEFT_CHECK(options.rope_theta == 0 || options.head_dim % 2 == 0, ConfigError,
             "{}: head_dim must be even for rotary positions, got {}", who, options.head_dim);
  WEFT_CHECK(options.init_std > 0 && options.output_init_std >= 0, ConfigError,
             "{}: init_std must be above 0 and output_init_std not below, got {} and {}", who,
             options.init_std, options.output_init_std);
  if (options.output_init_std == 0) options.output_init_std = options.init_std;
  return options;
}

void check_input(const Variable& x, const FullAttentionOptions& options) {
  WEFT_CHECK(x.defined() && x.rank() == 3 && x.size(2) == options.d_model, ShapeError,
             "{}: x must be [B, T, {}], got {}", name_of(options), options.d_model,
             x.defined() ? x.data() : Tensor());
}

}  // namespace

FullAttention::FullAttention(const FullAttentionOptions& options, Generator& generator)
    : SequenceMixer(options.window == 0 ? "FullAttention" : "SlidingWindowAttention"),
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
  autograd::pack_storage(weights);
}

Variable FullAttention::project(const Variable& x, bool recompute) const {
  return autograd::linear(x, autograd::join_rows({q_proj_.weight, k_proj_.weight, v_proj_.weight}),
                          {}, recompute);
}

Variable FullAttention::forward(const Variable& x, const nn::MixerContext& context) {
  check_input(x, options_);
  const Variable o = packed_attention(project(x, context.recompute), split_, context.position,
                                      options_.rope_theta, attention_options());  // [B, T, H Dv]
  return autograd::linear(o, o_proj_.weight);
}

std::unique_ptr<nn::MixerCache> FullAttention::make_cache(int64_t batch, int64_t capacity,
                                                          DType dtype, Device device) const {
  if (options_.window > 0) {
    return std::make_unique<WindowCache>(batch, capacity, options_.window, split_.kv_heads,
                                         split_.head_dim, split_.dv(), dtype, device);
  }
  return std::make_unique<KvCache>(batch, capacity, split_.kv_heads, split_.head_dim, split_.dv(),
                                   dtype, device);
}

Variable FullAttention::prefill(const Variable& x, nn::MixerCache& cache) {
  const autograd::NoGradGuard no_grad;
  check_input(x, options_);
  auto* const all = dynamic_cast<KvCache*>(&cache);
  auto* const last = dynamic_cast<WindowCache*>(&cache);
  WEFT_CHECK(options_.window == 0 ? all != nullptr : last != nullptr, ConfigError,
             "{}: the cache was made by another mechanism", name_of(options_));
  Qkv rows = split_qkv(project(x).data(), split_);
  if (options_.rope_theta > 0) {
    const RopeOptions rope{.theta = options_.rope_theta, .offset = cache.length()};
    rope_(rows.q, rope);
    rope_(rows.k, rope);
  }
  Tensor o;  // [B, T, H, Dv]
  if (last != nullptr) {
    o = last->attend(rows.q, rows.k, rows.v);
  } else {
    all->append(rows.k, rows.v);
    o = flash_attention_forward(rows.q, all->keys(), all->values()).o;
  }
  return autograd::linear(Variable(o.view({x.size(0), x.size(1), split_.heads * split_.dv()})),
                          o_proj_.weight);
}

bool FullAttention::can_decode(const nn::MixerCache& cache) const {
  constexpr int64_t kMostPositions = int64_t{1} << 20;  // of shared rotary tables
  const auto* const all = dynamic_cast<const KvCache*>(&cache);
  const auto* const last = dynamic_cast<const WindowCache*>(&cache);
  const bool can = options_.window == 0 ? all != nullptr && all->can_decode(split_)
                                        : last != nullptr && last->can_decode(split_);
  return can && (options_.rope_theta == 0 || cache.capacity() <= kMostPositions);
}

DecodeProduct FullAttention::decode(const DecodeRows& rows, nn::MixerCache& cache,
                                    const nn::DecodePosition& at) {
  const autograd::NoGradGuard no_grad;
  WEFT_CHECK(can_decode(cache), ConfigError, "{}: does not decode with this cache",
             name_of(options_));
  const Tensor weight =
      autograd::join_rows({q_proj_.weight, k_proj_.weight, v_proj_.weight}).data();
  // Weights that are not packed have been joined just now.
  const bool is_packed = weight.storage() == q_proj_.weight.data().storage();
  const auto [packed, sum] = decode_linear(rows, weight, at.settled && is_packed);
  Tensor o;  // [B, H Dv]
  if (options_.window == 0) {
    o = static_cast<KvCache&>(cache).decode(packed, split_, options_.rope_theta, at);
  } else {
    o = static_cast<WindowCache&>(cache).decode(packed, split_, options_.rope_theta, at);
  }
  return {decode_linear({.x = o}, o_proj_.weight.data(), at.settled).y, sum};
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
  return cost_of(options_, split_, static_cast<double>(tokens),
                 visible_pairs(tokens, options_.window));
}

nn::MixerCost FullAttention::step_cost(int64_t context) const {
  return cost_of(options_, split_, 1, static_cast<double>(rows_kept(context + 1, options_.window)));
}

int64_t FullAttention::cache_bytes(int64_t capacity, DType dtype) const {
  return rows_kept(capacity, options_.window) * split_.kv_heads * (split_.head_dim + split_.dv()) *
         static_cast<int64_t>(size_of(dtype));
}

std::string FullAttention::describe() const {
  std::string text =
      fmt::format("d_model={}, heads={}, kv_heads={}, head_dim={}, rope_theta={}", options_.d_model,
                  split_.heads, split_.kv_heads, split_.head_dim, options_.rope_theta);
  if (options_.window > 0) text += fmt::format(", window={}", options_.window);
  return text;
}

namespace {

/// `pairs` of queries and keys in a sequence, and `keys` that a decoded token sees, as formulas.
std::vector<CostFormula> cost_formulas(const std::string& pairs, const std::string& keys) {
  return {{"forward, projections (FLOPs)", "2*E*(H+Hk)*(D+Dv)*T"},
          {"forward, attention (FLOPs)", "2*H*(D+Dv)*" + pairs},
          {"backward, projections (FLOPs)", "4*E*(H+Hk)*(D+Dv)*T"},
          {"backward, attention (FLOPs)", "2*H*(3*D+2*Dv)*" + pairs},
          {"decoding one token, projections (FLOPs)", "2*E*(H+Hk)*(D+Dv)"},
          {"decoding one token, attention (FLOPs)", "2*H*(D+Dv)*" + keys},
          {"cache per token kept (bytes)", "Hk*(D+Dv)*s"}};
}

FullAttentionOptions options_from(const MixerShape& shape, const OptionValues& options) {
  return {.d_model = shape.d_model,
          .n_heads = shape.n_heads,
          .n_kv_heads = shape.n_kv_heads,
          .head_dim = options.integer("head-dim"),
          .rope_theta = options.boolean("rope") ? shape.rope_theta : 0,
          .init_std = shape.init_std,
          .output_init_std = shape.init_std / std::sqrt(2.0 * static_cast<double>(shape.n_layers))};
}

}  // namespace

MechanismInfo full_mechanism() {
  return {
      .name = "full",
      .summary = "softmax attention over all earlier tokens (multi-head, grouped or multi-query)",
      .paper = "Vaswani et al., Attention Is All You Need, NeurIPS 2017 (arXiv 1706.03762)",
      .options = {head_dim_option(), rope_option()},
      .costs = cost_formulas("T*(T+1)/2", "(S+1)"),
      .make = [](const MixerShape& shape, const OptionValues& options, int /*layer*/,
                 Generator& generator) -> std::unique_ptr<nn::SequenceMixer> {
        return std::make_unique<FullAttention>(options_from(shape, options), generator);
      },
      .letter = 'F',
  };
}

MechanismInfo swa_mechanism() {
  return {
      .name = "swa",
      .summary = "softmax attention over a sliding window of the last tokens",
      .paper = "Beltagy et al., Longformer: The Long-Document Transformer, 2020 (arXiv 2004.05150)",
      .options = {window_option("128"), head_dim_option(), rope_option()},
      .costs = cost_formulas("(M*(M+1)/2+(T-M)*M)", "N"),
      .cost_symbols = {{"M", "min(window, T): keys that the last token sees"},
                       {"N", "min(window, S + 1), the same in decoding"}},
      .make = [](const MixerShape& shape, const OptionValues& options, int /*layer*/,
                 Generator& generator) -> std::unique_ptr<nn::SequenceMixer> {
        FullAttentionOptions attention = options_from(shape, options);
        attention.window = options.integer("window");
        return std::make_unique<FullAttention>(attention, generator);
      },
  };
}

}  // namespace weft::attention
