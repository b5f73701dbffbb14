#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "weft/attention/block_compressor.h"
#include "weft/attention/kernels/block_selection.h"
#include "weft/attention/latent_mixer.h"
#include "weft/attention/mechanism.h"

namespace weft::attention {

/// Which branches make the output of a global layer.
enum class AsaBranches { both, compressed, selected };

struct AsaGlobalOptions {
  LatentOptions latent{.groups = 2};
  int64_t block = 16;         ///< l, tokens of a compressed block
  int64_t stride = 16;        ///< d, tokens from one compressed block to the next
  int64_t select_block = 16;  ///< l', tokens of a selected block
  int64_t select_count = 16;  ///< n, selected blocks of a query, forced ones included
  int64_t initial = 1;        ///< forced: first blocks of the sequence
  int64_t local = 2;          ///< forced: the query's own block and those before it
  int64_t query_run = 4;      ///< r, consecutive queries that share the blocks of the first
  CompressorKind compressor = CompressorKind::mean;
  AsaBranches branches = AsaBranches::both;
};

/// The global layer of alternating sparse attention (Hu et al., arXiv 2511.00819): the sum of
/// attention to compressed blocks and to the blocks selected by it, both over one set of grouped
/// latent vectors, with a gate of each for every head. With c, kR, q of LatentMixer,
///   ct_i = phi_c(c of block i), kRt_i = R_{i d} phi_r(x Wkr of block i),
///   o = g_cmp Attn(q; blocks complete at t) + g_slc Attn(q; tokens of selected blocks),
///   g = sigmoid(x Wg + bg),  y = o Wo,
/// where the blocks of a query are those of the first of its run of r tokens, n per group of heads
/// with the largest attention to the compressed ones. Parameters: those of LatentMixer,
/// gate_proj.weight [2 H, E] and gate_proj.bias, by head that of the compressed and of the selected
/// branch (of a single one, [H, E]), and those of latent_compressor and rope_compressor. The
/// selection carries no gradient.
class AsaGlobal final : public LatentMixer {
 public:
  /// Throws ConfigError with value and rule.
  AsaGlobal(const AsaGlobalOptions& options, Generator& generator);

  Variable forward(const Variable& x, const nn::MixerContext& context) override;
  std::unique_ptr<nn::MixerCache> make_cache(int64_t batch, int64_t capacity, DType dtype,
                                             Device device) const override;
  Variable prefill(const Variable& x, nn::MixerCache& cache) override;

  nn::MixerCost forward_cost(int64_t tokens) const override;
  nn::MixerCost step_cost(int64_t context) const override;
  int64_t cache_bytes(int64_t capacity, DType dtype) const override;
  std::string describe() const override;

  const AsaGlobalOptions& asa_options() const { return asa_; }
  /// The blocks that forward(x) reads.
  Selection selection(const Variable& x, const nn::MixerContext& context = {}) const;

 private:
  /// Latents and turned rotary keys, of tokens or of blocks.
  struct LatentRows {
    Variable latents, rope_keys;
  };
  /// Blocks `first`, `first + 1`, ... whose tokens' rows are given; turned as at tokens
  /// position + i d.
  LatentRows compress(const Variable& latents, const Variable& raw_rope_keys, int64_t first,
                      int64_t position) const;

  struct Attended {
    Variable heads;  ///< [B, T, H, Dv], gated
    std::optional<Selection> selection;
  };
  /// Queries at tokens `position` on, which see blocks and tokens of everything before them.
  Attended attend(const Variable& x, const Variable& q, const LatentRows& tokens,
                  const LatentRows& blocks, int64_t position, const Selection* inherited,
                  bool absorb_compressed, bool absorb_selected) const;
  /// The whole of x, from rotary position `position` on.
  Attended attend_all(const Variable& x, int64_t position) const;
  Selection select(const Variable& q, const AbsorbedQueries& absorbed, const LatentRows& blocks,
                   const Tensor& lse, int64_t position, const Selection* inherited) const;

  Variable gate_logits(const Variable& x) const;  // [B, T, H, C], without bias
  Variable gate_bias() const;                     // [H, C]
  BlockSelectionOptions selection_options() const;
  double compressed_pairs(int64_t tokens) const;
  double selected_pairs(int64_t tokens) const;
  nn::MixerCost cost(double tokens, double compressed, double selected, double blocks,
                     bool absorbed) const;

  AsaGlobalOptions asa_;
  BlockShape blocks_;
  BlockCompressor* latent_compressor_ = nullptr;
  BlockCompressor* rope_compressor_ = nullptr;  // null where Dr = 0
  nn::Linear* gate_proj_ = nullptr;
};

/// Their lines in the registry.
MechanismInfo asa_global_mechanism();
MechanismInfo asa_mechanism();

}  // namespace weft::attention
