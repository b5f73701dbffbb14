#pragma once

#include <cstdint>
#include <optional>

#include "weft/attention/block_stream.h"
#include "weft/attention/selection.h"
#include "weft/attention/token_ring.h"
#include "weft/nn/sequence_mixer.h"

namespace weft::attention {

struct AsaCacheOptions {
  BlockShape blocks{};
  int64_t groups = 2, latent_dim = 32, rope_dim = 16;  ///< rope_dim may be 0
  int64_t select_count = 16, query_run = 4, select_block = 16;
};

/// What a global layer of alternating sparse attention keeps of the tokens seen so far: latents and
/// turned rotary keys of all, the same of complete blocks, the unturned rotary keys that the next
/// block needs, and the lists of the last run of queries.
class AsaCache final : public nn::MixerCache {
 public:
  AsaCache(int64_t batch, int64_t capacity, const AsaCacheOptions& options, DType dtype,
           Device device);

  int64_t length() const override { return length_; }
  int64_t capacity() const override { return capacity_; }
  int64_t bytes() const override;
  void reset() override;

  struct Rows {
    Tensor latents;    ///< [B, n, G, D]
    Tensor rope_keys;  ///< [B, n, 1, Dr]; undefined where Dr = 0
  };
  /// Appends the rows of new tokens, of which rotary keys come turned and not turned. Gives those
  /// of the tokens of all blocks that they complete, rotary keys not turned; no rows for no block.
  /// Throws ShapeError, DTypeError.
  Rows append(const Tensor& latents, const Tensor& rope_keys, const Tensor& raw_rope_keys);
  /// Appends blocks, made of what append() gave.
  void append_blocks(const Tensor& latents, const Tensor& rope_keys);

  Rows tokens() const;  ///< of all tokens, views
  Rows blocks() const;  ///< of all complete blocks, views
  int64_t complete_blocks() const { return complete_; }

  /// Keeps the lists of the last run of queries, for a call that begins inside it.
  void keep_lists(const Selection& selection);
  /// Those lists, as ones of the query before `length()`.
  Selection kept_lists() const;

 private:
  AsaCacheOptions options_;
  int64_t capacity_;
  TokenRing latents_, rope_keys_, block_latents_, block_rope_keys_;
  BlockStream raw_rope_keys_;
  Tensor lists_;  // i32 [B, G, n] on the CPU, -1 behind the last block of a list
  Device device_;
  int64_t length_ = 0, complete_ = 0;
};

}  // namespace weft::attention
