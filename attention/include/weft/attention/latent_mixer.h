#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "weft/attention/functions.h"
#include "weft/attention/kernels/scored_attention.h"
#include "weft/nn/linear.h"
#include "weft/nn/norm.h"
#include "weft/nn/sequence_mixer.h"

namespace weft::attention {

/// How training computes what is one product by associativity: with keys and values of every head
/// (naive), or with latents as keys and values of all heads of a group (absorbed). Automatic is
/// naive. Decoding takes whichever needs fewer operations.
enum class LatentForm { automatic, naive, absorbed };

struct LatentOptions {
  int64_t d_model = 192;
  int64_t n_heads = 6;
  int64_t groups = 1;            ///< latent vectors a token; each feeds n_heads / groups heads
  int64_t head_dim = 0;          ///< Dn, unturned part of queries and keys; 0: d_model / n_heads
  int64_t value_dim = 0;         ///< Dv; 0 means head_dim
  int64_t n_kv_heads = 0;        ///< divides n_heads; for the default of latent_dim; 0: n_heads
  int64_t latent_dim = 0;        ///< Dc of one group; 0: n_kv_heads * head_dim / groups
  int64_t rope_dim = 0;          ///< Dr, turned part; 0: head_dim / 2, rounded up to an even number
  int64_t query_latent_dim = 0;  ///< Dq; 0: queries come from x directly
  int64_t window = 0;            ///< tokens that a token sees, itself included; 0 means all
  LatentForm form = LatentForm::automatic;
  bool rotary_part = true;  ///< without, Dr = 0: no positions at all
  bool normalize = true;    ///< RMSNorm of latents
  double rope_theta = 10000;
  double norm_eps = 1e-6;
  double init_std = 0.02;
  double output_init_std = 0;  ///< of the output projection; 0 means init_std
};

/// What attention over latent vectors is made of, shared by mechanisms that differ in what they
/// read: with group g of head h, and R the rotary turn,
///   c_sg = RMSNorm(x_s Wdkv_g), kR_s = x_s Wkr, [qC; qR]_th = x_t Wq (or Wuq RMSNorm(x_t Wdq)),
///   k_sh = [Wuk_h c_sg; R_s kR_s], v_sh = Wuv_h c_sg, q_th = [qC; R_t qR], scale 1/sqrt(Dn+Dr).
/// Parameters are named as in Hugging Face's DeepSeek-V2:
///   q_proj [H (Dn+Dr), E], or q_a_proj [Dq, E], q_a_layernorm [Dq], q_b_proj [H (Dn+Dr), Dq];
///   kv_a_proj_with_mqa [G Dc + Dr, E]: the rows of group 0, of group 1, ..., then those of kR;
///   kv_a_layernorm [G Dc]: the gains of group 0, of group 1, ...;
///   kv_b_proj [H (Dn+Dv), Dc]: by head Wuk_h, then Wuv_h; head h reads its group's latent;
///   o_proj [E, H Dv].
/// Queries hold a head's Dn unturned channels, then its Dr turned ones. Turned channels are paired
/// by halves, where DeepSeek's checkpoints interleave them.
/// Sources: arXiv 2405.04434, section 2.1; groups: arXiv 2505.21487, section 3.3.2.
class LatentMixer : public nn::SequenceMixer {
 public:
  const LatentOptions& options() const { return options_; }

 protected:
  /// `name` starts error messages. Throws ConfigError.
  LatentMixer(std::string type_name, const char* name, const LatentOptions& options,
              Generator& generator);

  /// Rows of new tokens.
  struct Rows {
    Variable q;          ///< [B, T, H, Dn + Dr], turned
    Variable latents;    ///< [B, T, G, Dc]
    Variable rope_keys;  ///< [B, T, 1, Dr], not turned; undefined where Dr = 0
  };
  Rows project(const Variable& x, int64_t position) const;
  /// Turns rotary keys of the positions position, position + stride, ...
  Variable turn(const Variable& rope_keys, int64_t position, int64_t stride = 1) const;

  /// Keys and values of some form for flash attention.
  struct KeysValues {
    Variable k, v;
  };
  /// [B, S, H, Dn + Dr] and [B, S, H, Dv] of latents and turned keys.
  KeysValues expand(const Variable& latents, const Variable& rope_keys) const;
  /// [B, S, G, Dc + Dr] and [B, S, G, Dc].
  KeysValues join(const Variable& latents, const Variable& rope_keys) const;
  /// Queries that read latents as keys.
  struct AbsorbedQueries {
    Variable latent;  ///< [B, T, H, Dc]
    Variable rope;    ///< [B, T, H, Dr], undefined where Dr = 0
    Variable joined() const;
  };
  AbsorbedQueries absorb(const Variable& q) const;
  /// Attention to latents [B, S, G, Dc] and turned rotary keys [B, S, 1, Dr]: [B, T, H, Dc].
  /// Copies no keys while nothing is recorded.
  AttentionWithLse attend_latents(const AbsorbedQueries& q, const Variable& latents,
                                  const Variable& rope_keys, FlashAttentionOptions visible) const;
  /// The same for one query a sequence, with its scores, while nothing is recorded.
  ScoredAttentionOutput attend_scored_latents(const AbsorbedQueries& q, const Variable& latents,
                                              const Variable& rope_keys,
                                              FlashAttentionOptions visible) const;
  Variable attend_selected_latents(const AbsorbedQueries& q, const Variable& latents,
                                   const Variable& rope_keys, const Selection& selection) const;
  /// Values of heads from weighted latents, [B, T, H, Dc] -> [B, T, H, Dv].
  Variable values_of(const Variable& weighted) const;
  /// [B, T, H, Dv] -> [B, T, E].
  Variable output(const Variable& heads) const;

  int64_t rope_dim() const { return options_.rope_dim; }
  double scale() const;
  void check_input(const Variable& x) const;
  double projection_flops() const;  ///< of one token, in any form
  double naive_flops() const;       ///< of scores and sums for one pair, all heads
  double absorbed_flops() const;

  const char* name_;
  LatentOptions options_;

 private:
  nn::Linear* q_proj_ = nullptr;
  nn::Linear* q_a_proj_ = nullptr;
  nn::RMSNorm* q_a_layernorm_ = nullptr;
  nn::Linear* q_b_proj_ = nullptr;
  nn::Linear* kv_a_proj_ = nullptr;
  nn::RMSNorm* kv_a_layernorm_ = nullptr;
  nn::Linear* kv_b_proj_ = nullptr;
  nn::Linear* o_proj_ = nullptr;
};

}  // namespace weft::attention
