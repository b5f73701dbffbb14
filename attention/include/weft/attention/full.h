#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "weft/attention/functions.h"
#include "weft/attention/mechanism.h"
#include "weft/nn/linear.h"
#include "weft/nn/sequence_mixer.h"

namespace weft::attention {

struct FullAttentionOptions {
  int64_t d_model = 192;
  int64_t n_heads = 6;
  int64_t n_kv_heads = 0;      ///< keys and values; 0 means n_heads, 1 is multi-query attention
  int64_t head_dim = 0;        ///< 0 means d_model / n_heads
  double rope_theta = 10000;   ///< base of the rotary frequencies; 0 means no rotation
  int64_t window = 0;          ///< keys that a token sees, its own included; 0 means all
  double init_std = 0.02;      ///< of the projections of queries, keys and values
  double output_init_std = 0;  ///< of the output projection; 0 means init_std
};

/// Causal softmax attention over all earlier tokens, or over a window of the last (Vaswani et al.,
/// arXiv 1706.03762, with rotary positions; grouped keys: Ainslie et al., arXiv 2305.13245;
/// windows: Beltagy et al., arXiv 2004.05150):
///   q = R_t(x Wq), k = R_s(x Wk), v = x Wv;  o = softmax(q k^T / sqrt(D)) v;  y = o Wo.
/// With a window w, token t sees the tokens max(0, t - w + 1) to t, and the cache keeps w rows.
/// Parameters q_proj.weight [H D, E], k_proj.weight and v_proj.weight [Hk D, E], o_proj.weight
/// [E, H D], as in Hugging Face's Llama.
class FullAttention final : public nn::SequenceMixer {
 public:
  /// Throws ConfigError with value and rule.
  FullAttention(const FullAttentionOptions& options, Generator& generator);

  /// Where it is to recompute, the projections are; what attention gives is kept.
  Variable forward(const Variable& x, const nn::MixerContext& context) override;
  bool recomputes() const override { return true; }
  std::unique_ptr<nn::MixerCache> make_cache(int64_t batch, int64_t capacity, DType dtype,
                                             Device device) const override;
  Variable prefill(const Variable& x, nn::MixerCache& cache) override;
  bool can_decode(const nn::MixerCache& cache) const override;
  DecodeProduct decode(const DecodeRows& rows, nn::MixerCache& cache,
                       const nn::DecodePosition& at) override;

  nn::MixerCost forward_cost(int64_t tokens) const override;
  nn::MixerCost step_cost(int64_t context) const override;
  int64_t cache_bytes(int64_t capacity, DType dtype) const override;
  std::string describe() const override;

 private:
  FlashAttentionOptions attention_options() const { return {.window = options_.window}; }
  /// [B, T, E] -> [B, T, split_.width()]
  Variable project(const Variable& x, bool recompute = false) const;

  FullAttentionOptions options_;
  QkvSplit split_;
  nn::Linear& q_proj_;
  nn::Linear& k_proj_;
  nn::Linear& v_proj_;
  nn::Linear& o_proj_;
};

/// Their lines in the registry.
MechanismInfo full_mechanism();
MechanismInfo swa_mechanism();

}  // namespace weft::attention
