#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "weft/attention/block_compressor.h"
#include "weft/attention/functions.h"
#include "weft/attention/kernels/block_selection.h"
#include "weft/attention/mechanism.h"
#include "weft/nn/sequence_mixer.h"

namespace weft::attention {

/// Where the rotary position of a compressed key lies, counted from its block's first token.
enum class CompressedRope {
  start,   ///< keys are compressed as they are and turned by the position of the first token
  middle,  ///< ... of token l / 2
  end,     ///< ... of the last token
  none,    ///< neither compressed keys nor the queries that read them turn
  before,  ///< keys turn by their own positions and are compressed after that
};

struct NsaOptions {
  int64_t d_model = 192;
  int64_t n_heads = 6;
  int64_t n_kv_heads = 0;  ///< keys and values; 0 means n_heads. One group shares a selection
  int64_t head_dim = 0;    ///< 0 means d_model / n_heads
  int64_t value_dim = 0;   ///< 0 means head_dim

  int64_t block = 16;         ///< l, tokens of a compressed block
  int64_t stride = 16;        ///< d, tokens from one compressed block to the next
  int64_t select_block = 16;  ///< l', tokens of a selected block
  int64_t select_count = 8;   ///< n, selected blocks of a query, forced ones included
  int64_t initial = 1;        ///< forced: first blocks of the sequence
  int64_t local = 2;          ///< forced: the query's own block and those before it
  int64_t window = 128;       ///< w, tokens of the window, the query's own included

  CompressorKind compressor = CompressorKind::mean;
  int64_t compressor_hidden = 0;     ///< width of the mlp; 0 means twice the head's
  bool compressor_residual = false;  ///< adds the mean to the mlp
  bool shared_kv = false;            ///< one set of keys and values for all branches
  CompressedRope compressed_rope = CompressedRope::start;
  int64_t gate_hidden = 0;  ///< width of a hidden layer of the gates; 0 means none
  /// Branches that are computed, in the order compressed, selected, window.
  std::array<bool, 3> branches = {true, true, true};

  double rope_theta = 10000;   ///< base of the rotary frequencies; 0 means no rotation
  double init_std = 0.02;      ///< of all weights but the output projection's
  double output_init_std = 0;  ///< of the output projection; 0 means init_std
};

/// Native sparse attention (Yuan et al., arXiv 2502.11089): three branches, summed with a sigmoid
/// gate for each token and head,
///   o_t = sum over c of g_t^c Attn(q_t, K^c, V^c), y = o Wo (equation 5):
/// compressed keys, one of every block of l tokens, seen from the block's last token on (7); the n
/// blocks of l' tokens with the most attention in the compressed branch, the first and the last
/// ones forced (9 to 12); and a window of the last w tokens.
///
/// Parameters: q_proj.weight [H D, E]; k_proj_cmp, v_proj_cmp, k_proj_slc, v_proj_slc, k_proj_win,
/// v_proj_win.weight [Hk D or Hk Dv, E], or k_proj and v_proj where shared; gate_proj.weight
/// [H C, E] (or [H C, M] behind gate_up_proj.weight [M, E]) and .bias, for each head the C branches
/// that are on; o_proj.weight [E, H Dv]; k_compressor.* and v_compressor.*, see BlockCompressor.
/// What no enabled branch reads does not exist, but selected blocks need compressed keys: without
/// the compressed branch their projections are there and get no gradient, as none flows through a
/// selection.
class NativeSparseAttention final : public nn::SequenceMixer {
 public:
  /// Throws ConfigError with option, value and rule.
  NativeSparseAttention(const NsaOptions& options, Generator& generator);

  Variable forward(const Variable& x, const nn::MixerContext& context) override;
  std::unique_ptr<nn::MixerCache> make_cache(int64_t batch, int64_t capacity, DType dtype,
                                             Device device) const override;
  Variable prefill(const Variable& x, nn::MixerCache& cache) override;

  nn::MixerCost forward_cost(int64_t tokens) const override;
  nn::MixerCost step_cost(int64_t context) const override;
  int64_t cache_bytes(int64_t capacity, DType dtype) const override;
  std::string describe() const override;

  /// What forward() computes before the gates, for looking into the mechanism.
  struct Parts {
    std::array<Variable, 3> branches;    ///< [B, T, H, Dv]; undefined where off
    Variable logits;                     ///< of the gates, without bias, [B, T, H, C]
    std::optional<Selection> selection;  ///< none without selected blocks
  };
  /// With `selection` these blocks are read instead of those that would be chosen.
  Parts parts(const Variable& x, const nn::MixerContext& context,
              const Selection* selection = nullptr);
  /// parts() -> y.
  Variable combine(const Parts& parts) const;

  /// Replaces the gates by constants, in the order compressed, selected, window; none gives the
  /// learned ones back.
  void fix_gates(std::optional<std::array<double, 3>> gates) { fixed_gates_ = gates; }

  /// The options with 0 replaced by what it stands for.
  const NsaOptions& options() const { return options_; }

 private:
  struct Projections;
  class Cache;

  void add_projections(Generator& generator);
  BlockCompressor* add_compressor(const char* name, int64_t dim, Generator& generator);
  Projections project(const Variable& x, int64_t position) const;
  Variable turn_compressed(const Variable& keys, int64_t first_block, int64_t position) const;
  BlockSelectionOptions selection_options() const;
  /// The two branches that read blocks, of queries from `position` on.
  void attend_blocks(const Projections& in, const Variable& k_cmp, const Variable& v_cmp,
                     int64_t position, const Selection* selection, Parts& out) const;
  /// The same of one query a sequence, which chooses by the scores that its attention has.
  void attend_scored(const Projections& in, const Variable& k_cmp, const Variable& v_cmp,
                     int64_t position, FlashAttentionOptions seen, Parts& out) const;
  bool reads_compressed_keys() const { return options_.branches[0] || options_.branches[1]; }
  nn::MixerCost cost(double tokens, double compressed_pairs, double selected_pairs,
                     double window_pairs, double blocks) const;

  NsaOptions options_;
  std::vector<HeadsPart> layout_;    // of the packed product
  std::vector<Variable> projected_;  // its weights
  nn::Linear* gate_proj_ = nullptr;
  nn::Linear* o_proj_ = nullptr;
  BlockCompressor* k_compressor_ = nullptr;
  BlockCompressor* v_compressor_ = nullptr;
  std::optional<std::array<double, 3>> fixed_gates_;
};

/// Its line in the registry.
MechanismInfo nsa_mechanism();

}  // namespace weft::attention
