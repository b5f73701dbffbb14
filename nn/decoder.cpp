#include "weft/nn/decoder.h"

#include <cmath>
#include <utility>

#include "weft/autograd/checkpoint.h"
#include "weft/autograd/functions/arithmetic.h"
#include "weft/autograd/functions/cross_entropy.h"
#include "weft/autograd/functions/dropout.h"
#include "weft/autograd/functions/linear.h"
#include "weft/autograd/functions/view.h"
#include "weft/tensor/check.h"
#include "weft/tensor/ops/compare.h"
#include "weft/tensor/ops/cross_entropy.h"
#include "weft/tensor/ops/gather.h"
#include "weft/tensor/ops/next_token.h"
#include "weft/tensor/profiler.h"

namespace weft::nn {
namespace {

/// The part of the tree that Hugging Face calls "model": a container, so that the names agree.
class DecoderBody final : public Module {
 public:
  DecoderBody() : Module("Decoder") {}
  using Module::adopt_module;
  using Module::register_module;
};

class ModuleList final : public Module {
 public:
  ModuleList() : Module("ModuleList") {}
  using Module::adopt_module;
};

/// For the profiler; not made while it is off.
std::string layer_name(size_t layer) {
  return profiler::enabled() ? fmt::format("model.layers.{}", layer) : std::string();
}

/// Whether passes over memory are computed again one by one; where a block is as a whole, they need
/// not be once more.
bool recomputes_passes(Recompute recompute) {
  return recompute == Recompute::elementwise || recompute == Recompute::attention;
}

double residual_std(const DecoderConfig& config) {
  return config.init_std / std::sqrt(2.0 * static_cast<double>(config.n_layers));
}

void check_targets(const Tensor& tokens, const Tensor& targets) {
  WEFT_CHECK(targets.defined() && targets.shape() == tokens.shape(), ShapeError,
             "decoder: targets {} must have the shape of tokens {}", targets, tokens);
}

Variable maybe_dropout(const Variable& x, double p, Generator* generator) {
  if (p == 0) return x;
  WEFT_CHECK(generator != nullptr, ConfigError, "decoder: dropout {} needs a generator", p);
  return autograd::dropout(x, p, *generator);
}

std::vector<Generator*> generators_of(Generator* generator) {
  return generator == nullptr ? std::vector<Generator*>() : std::vector<Generator*>{generator};
}

}  // namespace

void validate(const DecoderConfig& config) {
  const auto positive = [](const char* name, int64_t value) {
    WEFT_CHECK(value >= 1, ConfigError, "decoder: {} must be at least 1, got {}", name, value);
  };
  positive("vocab_size", config.vocab_size);
  positive("n_layers", config.n_layers);
  positive("d_model", config.d_model);
  positive("d_ff", config.d_ff);
  WEFT_CHECK(config.norm_eps > 0, ConfigError, "decoder: norm_eps must be positive, got {}",
             config.norm_eps);
  WEFT_CHECK(config.dropout >= 0 && config.dropout < 1, ConfigError,
             "decoder: dropout must lie in [0, 1), got {}", config.dropout);
  WEFT_CHECK(config.init_std > 0, ConfigError, "decoder: init_std must be positive, got {}",
             config.init_std);
  WEFT_CHECK(is_floating(config.compute_dtype), ConfigError,
             "decoder: compute_dtype must be a floating type, got {}", config.compute_dtype);
}

DecoderBlock::DecoderBlock(const DecoderConfig& config, std::unique_ptr<SequenceMixer> mixer,
                           Generator& generator)
    : Module("DecoderBlock"),
      input_layernorm_(
          register_module<RMSNorm>("input_layernorm", config.d_model, config.norm_eps)),
      mixer_(adopt_module("self_attn", std::move(mixer))),
      post_attention_layernorm_(
          register_module<RMSNorm>("post_attention_layernorm", config.d_model, config.norm_eps)),
      mlp_(register_module<SwigluMlp>(
          "mlp", config.d_model, config.d_ff, generator,
          MlpInit{.std = config.init_std, .output_std = residual_std(config)},
          recomputes_passes(config.recompute))),
      recompute_(config.recompute) {}

namespace {

/// norm(stream + pending), and the sum as the new stream.
RMSNorm::WithResidual add_and_norm(RMSNorm& norm, const DecoderBlock::Residual& x,
                                   bool recompute = false) {
  if (!x.pending.defined()) return norm.forward_with_residual(x.stream, {}, recompute);
  return norm.forward_with_residual(x.pending, x.stream, recompute);
}

}  // namespace

template <class Mix, class Mlp>
DecoderBlock::Residual DecoderBlock::run(const Residual& x, Mix&& mix, Mlp&& mlp) {
  const auto timed = [](const char* name, auto&& part) {
    const profiler::Range range(name);
    return part();
  };
  const bool recompute_norms = recomputes_passes(recompute_);
  const auto [stream, normed] =
      timed("input_layernorm", [&] { return add_and_norm(input_layernorm_, x, recompute_norms); });
  const Variable mixed = timed("self_attn", [&, &in = normed] { return mix(in); });
  const auto [after_mixer, normed_again] = timed("post_attention_layernorm", [&, &out = stream] {
    return add_and_norm(post_attention_layernorm_, {out, mixed}, recompute_norms);
  });
  return {after_mixer, timed("mlp", [&, &in = normed_again] { return mlp(in); })};
}

DecoderBlock::Residual DecoderBlock::forward(const Residual& x, const MixerContext& context,
                                             double dropout) {
  const auto drop = [&](const Variable& y) { return maybe_dropout(y, dropout, context.generator); };
  MixerContext for_mixer = context;
  for_mixer.recompute = recompute_ == Recompute::attention;
  const auto mix = [&](const Variable& in) {
    if (!for_mixer.recompute || mixer_.recomputes()) return mixer_.forward(in, for_mixer);
    return autograd::checkpoint(
        [this, context](const std::vector<Variable>& again) -> std::vector<Variable> {
          return {mixer_.forward(again[0], context)};
        },
        {in}, generators_of(context.generator))[0];
  };
  return run(
      x, [&](const Variable& in) { return drop(mix(in)); },
      [&](const Variable& in) { return drop(mlp_.forward(in)); });
}

DecoderBlock::Residual DecoderBlock::prefill(const Residual& x, MixerCache& cache) {
  return run(
      x,
      [&](const Variable& in) {
        return in.size(1) == 1 ? mixer_.step(in, cache) : mixer_.prefill(in, cache);
      },
      [&](const Variable& in) { return mlp_.forward(in); });
}

DecodeRows DecoderBlock::decode(DecodeRows rows, MixerCache& cache, const DecodePosition& at) {
  rows.gain = input_layernorm_.weight.data();
  rows.eps = input_layernorm_.eps();
  const DecodeProduct mixed = mixer_.decode(rows, cache, at);
  const DecodeProduct fed = mlp_.decode({.x = mixed.sum,
                                         .residual = mixed.y,
                                         .gain = post_attention_layernorm_.weight.data(),
                                         .eps = post_attention_layernorm_.eps()},
                                        at.settled);
  return {.x = fed.sum, .residual = fed.y};
}

std::string DecoderBlock::find_non_finite(Residual& x) {
  const auto [stream, normed] = add_and_norm(input_layernorm_, x);
  const Variable mixed = mixer_.forward(normed, {});
  if (!all_finite(mixed.data())) return "self_attn";
  const auto [after_mixer, normed_again] = add_and_norm(post_attention_layernorm_, {stream, mixed});
  x = {after_mixer, mlp_.forward(normed_again)};
  return all_finite(x.pending.data()) ? "" : "mlp";
}

int64_t DecoderCache::bytes() const {
  int64_t total = 0;
  for (const auto& layer : layers_) total += layer->bytes();
  return total;
}

void DecoderCache::reset() {
  for (const auto& layer : layers_) layer->reset();
}

void DecoderCache::advance(int64_t tokens) {
  for (const auto& layer : layers_) layer->advance(tokens);
}

DecoderLM::DecoderLM(const DecoderConfig& config, const MixerFactory& mixers, Generator& generator)
    : Module("DecoderLM"), config_(config) {
  validate(config);
  auto& body = register_module<DecoderBody>("model");
  embed_tokens_ = &body.register_module<Embedding>("embed_tokens", config.vocab_size,
                                                   config.d_model, generator, config.init_std);
  auto& layers = body.adopt_module("layers", std::make_unique<ModuleList>());
  for (int layer = 0; layer < config.n_layers; ++layer) {
    std::unique_ptr<SequenceMixer> mixer = mixers(layer);
    WEFT_CHECK(mixer != nullptr, ConfigError,
               "decoder: the mixer factory gave nothing for layer {}", layer);
    blocks_.push_back(
        &layers.adopt_module(std::to_string(layer),
                             std::make_unique<DecoderBlock>(config, std::move(mixer), generator)));
  }
  norm_ = &body.register_module<RMSNorm>("norm", config.d_model, config.norm_eps);
  if (!config.tie_embeddings) {
    lm_head_ = &register_module<Linear>("lm_head", config.d_model, config.vocab_size, generator,
                                        LinearOptions{.bias = false, .init_std = config.init_std});
  }
}

Variable DecoderLM::embed(const Tensor& tokens) {
  WEFT_CHECK(tokens.defined() && tokens.rank() == 2, ShapeError,
             "decoder: tokens must be [B, T], got {}", tokens);
  const profiler::Range range("model.embed_tokens");
  const Tensor here = tokens.to(device());
  const DType dtype = config_.compute_dtype;
  const bool rounds =
      embed_tokens_->weight.dtype() == DType::f32 && (dtype == DType::bf16 || dtype == DType::f16);
  if (rounds) return embed_tokens_->forward(here, dtype);  // [B, T, E]
  return autograd::to(embed_tokens_->forward(here), dtype);
}

Variable DecoderLM::hidden_states(const Tensor& tokens, Generator* generator) {
  const double dropout = training() ? config_.dropout : 0.0;
  const MixerContext context{.position = 0, .generator = generator};
  DecoderBlock::Residual x{maybe_dropout(embed(tokens), dropout, generator), {}};
  for (size_t i = 0; i < blocks_.size(); ++i) {
    DecoderBlock* const block = blocks_[i];
    if (config_.recompute != Recompute::block || !autograd::grad_enabled()) {
      const profiler::Range range(layer_name(i));
      x = block->forward(x, context, dropout);
      continue;
    }
    // Added up first, so that the block keeps one tensor and not two.
    const Variable sum = x.pending.defined() ? autograd::add(x.stream, x.pending) : x.stream;
    const auto outputs = autograd::checkpoint(
        [block, i, context, dropout](const std::vector<Variable>& in) -> std::vector<Variable> {
          const profiler::Range range(layer_name(i));
          const auto [stream, pending] = block->forward({in[0], {}}, context, dropout);
          return {stream, pending};
        },
        {sum}, generators_of(generator));
    x = {outputs[0], outputs[1]};
  }
  const profiler::Range range("model.norm");
  return add_and_norm(*norm_, x).normed;
}

Variable DecoderLM::head_weight() const {
  return lm_head_ != nullptr ? lm_head_->weight : embed_tokens_->weight;
}

Variable DecoderLM::logits(const Tensor& tokens, Generator* generator) {
  const Variable hidden = hidden_states(tokens, generator);
  const profiler::Range range("lm_head");
  const Variable raw = autograd::linear(hidden, head_weight(), {});
  return raw.dtype() == DType::f64 ? raw : autograd::to(raw, DType::f32);
}

Variable DecoderLM::loss(const Tensor& tokens, const Tensor& targets, Generator* generator,
                         const Tensor& scale) {
  check_targets(tokens, targets);
  const Variable hidden = hidden_states(tokens, generator);
  const profiler::Range range("lm_head");
  return autograd::linear_cross_entropy(autograd::reshape(hidden, {-1, config_.d_model}),
                                        head_weight(), targets.to(device()).reshape({-1}),
                                        kIgnoreIndex,
                                        /*label_smoothing=*/0, scale);
}

Tensor DecoderLM::token_losses(const Tensor& tokens, const Tensor& targets) {
  check_targets(tokens, targets);
  const autograd::NoGradGuard no_grad;
  const Tensor hidden = hidden_states(tokens).data().reshape({-1, config_.d_model});
  return linear_cross_entropy_per_token(hidden, head_weight().data(),
                                        targets.to(device()).reshape({-1}))
      .reshape(tokens.shape());
}

Tensor DecoderLM::logits_at(const Tensor& tokens, const Tensor& rows) {
  const autograd::NoGradGuard no_grad;
  const Tensor hidden = hidden_states(tokens).data().reshape({-1, config_.d_model});
  const Tensor logits =
      autograd::linear(Variable(index_select(hidden, 0, rows.to(device()))), head_weight(), {})
          .data();
  return logits.dtype() == DType::f64 ? logits : logits.to(DType::f32);
}

std::string DecoderLM::find_non_finite(const Tensor& tokens) {
  const autograd::NoGradGuard no_grad;
  const EvalModeGuard eval_mode(*this);
  DecoderBlock::Residual x{embed(tokens), {}};
  if (!all_finite(x.stream.data())) return "model.embed_tokens";
  for (size_t i = 0; i < blocks_.size(); ++i) {
    const std::string part = blocks_[i]->find_non_finite(x);
    if (!part.empty()) return fmt::format("model.layers.{}.{}", i, part);
  }
  return all_finite(add_and_norm(*norm_, x).normed.data()) ? "the loss" : "model.norm";
}

DecoderCache DecoderLM::make_cache(int64_t batch, int64_t capacity) const {
  WEFT_CHECK(batch >= 1 && capacity >= 1, ConfigError,
             "make_cache: needs at least 1 sequence and 1 token, got {} and {}", batch, capacity);
  std::vector<std::unique_ptr<MixerCache>> layers;
  for (const DecoderBlock* block : blocks_) {
    layers.push_back(
        block->mixer().make_cache(batch, capacity, config_.compute_dtype, head_weight().device()));
  }
  return {std::move(layers), batch};
}

Tensor DecoderLM::prefill(const Tensor& tokens, DecoderCache& cache) {
  const autograd::NoGradGuard no_grad;
  const Variable embedded = embed(tokens);
  WEFT_CHECK(tokens.size(1) >= 1, ShapeError, "prefill: needs at least 1 token, got {}", tokens);
  WEFT_CHECK(cache.length() + tokens.size(1) <= cache.capacity(), ShapeError,
             "prefill: {} tokens cached and {} more exceed the capacity of {}", cache.length(),
             tokens.size(1), cache.capacity());
  DecoderBlock::Residual x{embedded, {}};
  for (size_t i = 0; i < blocks_.size(); ++i) {
    const profiler::Range range(layer_name(i));
    x = blocks_[i]->prefill(x, cache.layer(static_cast<int>(i)));
  }
  const auto last = [](const Variable& v) {
    return Variable(v.data().slice(1, -1, v.size(1)).contiguous());
  };
  const Variable normed =
      add_and_norm(*norm_, {last(x.stream), last(x.pending)}).normed;  // [B, 1, E]
  const Tensor logits = autograd::linear(normed, head_weight(), {}).data().select(1, 0);
  return logits.dtype() == DType::f64 ? logits : logits.to(DType::f32);
}

bool DecoderLM::can_decode(const DecoderCache& cache) const {
  if (device().is_cuda() && config_.compute_dtype == DType::f64) return false;
  if (cache.n_layers() != n_layers()) return false;
  for (int i = 0; i < n_layers(); ++i)
    if (!mixer(i).can_decode(cache.layer(i))) return false;
  return true;
}

Tensor DecoderLM::decode(const Tensor& tokens, DecoderCache& cache, const DecodePosition& at) {
  const autograd::NoGradGuard no_grad;
  DecodeRows rows{.x = token_rows(embed_tokens_->weight.data(), tokens, config_.compute_dtype)};
  for (size_t i = 0; i < blocks_.size(); ++i)
    rows = blocks_[i]->decode(rows, cache.layer(static_cast<int>(i)), at);
  rows.gain = norm_->weight.data();
  rows.eps = norm_->eps();
  return decode_linear(rows, head_weight().data(), at.settled).y;
}

double DecoderLM::training_flops_per_token(int64_t sequence_length) const {
  double forward = 0;
  for (const DecoderBlock* block : blocks_) {
    forward +=
        block->mixer().forward_cost(sequence_length).total() / static_cast<double>(sequence_length);
    forward += 6.0 * static_cast<double>(config_.d_model) * static_cast<double>(config_.d_ff);
  }
  forward += 2.0 * static_cast<double>(config_.d_model) * static_cast<double>(config_.vocab_size);
  return 3.0 * forward;
}

}  // namespace weft::nn
