#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "weft/nn/embedding.h"
#include "weft/nn/linear.h"
#include "weft/nn/mlp.h"
#include "weft/nn/module.h"
#include "weft/nn/norm.h"
#include "weft/nn/sequence_mixer.h"

namespace weft::nn {

/// What backward computes again instead of keeping; each includes those before it.
enum class Recompute {
  none,
  elementwise,  ///< what a pass over memory gives: outputs of the blocks' norms and, on a GPU, of
                ///< the MLP's activation
  attention,    ///< what lies between the input and the output of the sequence mixers: the
                ///< projections of full attention, all of others
  block,        ///< all of a block
};

/// Shape of a decoder language model; the sequence mixers bring their own options.
struct DecoderConfig {
  int64_t vocab_size = 256;
  int64_t n_layers = 6;
  int64_t d_model = 192;
  int64_t d_ff = 512;
  double norm_eps = 1e-6;
  double dropout =
      0.0;  ///< on the embedding and on what each half block adds to the residual stream
  bool tie_embeddings = false;  ///< the output head is the embedding table
  double init_std =
      0.02;  ///< of all weights; projections into the residual stream get init_std / sqrt(2 layers)
  DType compute_dtype =
      DType::f32;  ///< of activations and products: f32, bf16 or f64; parameters keep their own
  Recompute recompute = Recompute::none;
};

/// Throws ConfigError naming the field, its value and the rule.
void validate(const DecoderConfig& config);

/// A pre-norm block (Llama): h = x + mixer(norm(x)); y = h + mlp(norm(h)). Children
/// input_layernorm, self_attn, post_attention_layernorm and mlp, named as in Hugging Face's Llama.
class DecoderBlock final : public Module {
 public:
  DecoderBlock(const DecoderConfig& config, std::unique_ptr<SequenceMixer> mixer,
               Generator& generator);

  /// The residual stream as a sum that is not yet added up: the next norm adds it in its own pass
  /// over memory.
  struct Residual {
    Variable stream;   ///< [B, T, E]
    Variable pending;  ///< [B, T, E], or undefined for zero
  };
  Residual forward(const Residual& x, const MixerContext& context, double dropout);
  Residual prefill(const Residual& x, MixerCache& cache);
  /// One token of every sequence as SequenceMixer::decode() takes it: the residual stream is x +
  /// residual of `rows`, whose gain and eps are filled in here.
  DecodeRows decode(DecodeRows rows, MixerCache& cache, const DecodePosition& at);

  /// Which part of the block first gives an infinity or NaN: "self_attn", "mlp", or "" when all is
  /// finite. `x` is replaced by the block's output.
  std::string find_non_finite(Residual& x);

  SequenceMixer& mixer() { return mixer_; }
  const SequenceMixer& mixer() const { return mixer_; }

 private:
  /// The block with these functions in the places of mixer and MLP.
  template <class Mix, class Mlp>
  Residual run(const Residual& x, Mix&& mix, Mlp&& mlp);

  RMSNorm& input_layernorm_;
  SequenceMixer& mixer_;
  RMSNorm& post_attention_layernorm_;
  SwigluMlp& mlp_;
  Recompute recompute_;
};

/// Caches of all layers of a decoder, for a batch of sequences of equal length.
class DecoderCache {
 public:
  DecoderCache(std::vector<std::unique_ptr<MixerCache>> layers, int64_t batch)
      : layers_(std::move(layers)), batch_(batch) {}

  MixerCache& layer(int index) { return *layers_[static_cast<size_t>(index)]; }
  const MixerCache& layer(int index) const { return *layers_[static_cast<size_t>(index)]; }
  int n_layers() const { return static_cast<int>(layers_.size()); }
  int64_t batch() const { return batch_; }
  int64_t length() const { return layers_.empty() ? 0 : layers_.front()->length(); }
  int64_t capacity() const { return layers_.empty() ? 0 : layers_.front()->capacity(); }
  int64_t bytes() const;
  void reset();
  /// See MixerCache::advance().
  void advance(int64_t tokens);

 private:
  std::vector<std::unique_ptr<MixerCache>> layers_;
  int64_t batch_;
};

/// A Llama-shaped decoder language model: token embedding, pre-norm blocks, final norm, output
/// head. Parameter names follow Hugging Face's Llama: model.embed_tokens.weight,
/// model.layers.N.self_attn.q_proj.weight, model.norm.weight, lm_head.weight (absent when tied).
class DecoderLM final : public Module {
 public:
  /// `mixers` makes the sequence mixer of each layer; each must map d_model to d_model.
  DecoderLM(const DecoderConfig& config, const MixerFactory& mixers, Generator& generator);

  const DecoderConfig& config() const { return config_; }
  /// Where the parameters live. Tokens, targets and rows that are elsewhere are copied there.
  Device device() const { return head_weight().device(); }

  /// tokens [B, T] of i64 or i32 -> final normed states [B, T, E]. `generator` is needed in
  /// training with dropout.
  Variable hidden_states(const Tensor& tokens, Generator* generator = nullptr);
  /// tokens [B, T] -> logits [B, T, V] in f32 (f64 for an f64 model).
  Variable logits(const Tensor& tokens, Generator* generator = nullptr);
  /// Mean negative log likelihood (nats) of targets [B, T]; -100 is not counted. With `scale`, of
  /// rank 0 and f32 on the device, that times their sum. Never holds the logits of the batch.
  Variable loss(const Tensor& tokens, const Tensor& targets, Generator* generator = nullptr,
                const Tensor& scale = {});
  /// Logits at some places alone: tokens [B, T], rows [N] of i64 that count b T + t -> [N, V] in
  /// f32 (f64 for an f64 model). Not recorded. Throws IndexError on a row outside.
  Tensor logits_at(const Tensor& tokens, const Tensor& rows);
  /// The same per token: [B, T] f32, 0 where the target is -100. Not recorded.
  Tensor token_losses(const Tensor& tokens, const Tensor& targets);

  DecoderCache make_cache(int64_t batch, int64_t capacity) const;
  /// Continues the cached sequences by tokens [B, T] and returns the logits after the last one, [B,
  /// V].
  Tensor prefill(const Tensor& tokens, DecoderCache& cache);

  /// Whether decode() takes this cache: all mixers can, and a GPU computes in f32, bf16 or f16.
  bool can_decode(const DecoderCache& cache) const;
  /// The step of one token of every sequence, tokens i64 [B], whose position is read from the
  /// device: see SequenceMixer::decode(). Gives logits [B, V] of compute_dtype. DecodeLoop replays
  /// it.
  Tensor decode(const Tensor& tokens, DecoderCache& cache, const DecodePosition& at);

  /// The first part of the model whose output for these tokens holds an infinity or NaN, such as
  /// "model.layers.3.self_attn"; "the loss" when all are finite. For telling where a run went
  /// wrong.
  std::string find_non_finite(const Tensor& tokens);

  int n_layers() const { return static_cast<int>(blocks_.size()); }
  const SequenceMixer& mixer(int layer) const {
    return blocks_[static_cast<size_t>(layer)]->mixer();
  }

  /// Floating-point operations of one training step (forward and backward) per token at this
  /// sequence length.
  double training_flops_per_token(int64_t sequence_length) const;

 private:
  Variable embed(const Tensor& tokens);
  Variable head_weight() const;
  Tensor project(const Variable& hidden) const;

  DecoderConfig config_;
  Embedding* embed_tokens_ = nullptr;
  std::vector<DecoderBlock*> blocks_;
  RMSNorm* norm_ = nullptr;
  Linear* lm_head_ = nullptr;  // null when tied
};

}  // namespace weft::nn
