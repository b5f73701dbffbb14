#pragma once

#include <cstdint>

#include "weft/attention/token_ring.h"
#include "weft/nn/sequence_mixer.h"

namespace weft::attention {

/// Latent vectors and turned rotary keys of the tokens seen so far, or of the last min(window,
/// capacity) of them.
class LatentCache final : public nn::MixerCache {
 public:
  /// `window` 0 means all tokens; `rope_dim` may be 0.
  LatentCache(int64_t batch, int64_t capacity, int64_t window, int64_t groups, int64_t latent_dim,
              int64_t rope_dim, DType dtype, Device device);

  int64_t length() const override { return length_; }
  int64_t capacity() const override { return capacity_; }
  int64_t bytes() const override { return latents_.bytes() + rope_keys_.bytes(); }
  void reset() override { length_ = 0; }

  /// Keys that queries of new tokens see.
  struct Rows {
    Tensor latents;    ///< [B, S, G, Dc]
    Tensor rope_keys;  ///< [B, S, 1, Dr]; undefined where Dr = 0
    /// Whether the rows are exactly those that all queries see, in any order; otherwise they end
    /// with the new tokens, and queries see them causally, through the window.
    bool unmasked = false;
  };
  /// Appends latents [B, T, G, Dc] and rope_keys [B, T, 1, Dr]. Throws ShapeError, DTypeError.
  Rows extend(const Tensor& latents, const Tensor& rope_keys);

 private:
  Tensor extend(TokenRing& ring, const Tensor& rows) const;

  int64_t capacity_, window_;
  TokenRing latents_, rope_keys_;
  int64_t length_ = 0;
};

}  // namespace weft::attention
