#pragma once

#include <cstdint>
#include <optional>

#include "weft/attention/kernels/decode_attention.h"
#include "weft/attention/kernels/flash_attention.h"
#include "weft/attention/token_ring.h"
#include "weft/nn/sequence_mixer.h"

namespace weft::attention {

/// Keys and values of the last tokens, for attention over a window: rings of min(window, capacity)
/// rows.
class WindowCache final : public nn::MixerCache {
 public:
  /// `window` keys are seen, the query's own included; at least 1.
  WindowCache(int64_t batch, int64_t capacity, int64_t window, int64_t kv_heads, int64_t dim,
              int64_t value_dim, DType dtype, Device device);

  int64_t length() const override { return length_; }
  int64_t capacity() const override { return capacity_; }
  int64_t bytes() const override { return k_.bytes() + v_.bytes(); }
  void reset() override { length_ = 0; }
  void advance(int64_t tokens) override;

  /// Whether decode() waits for nothing, or runs on the CPU.
  bool can_decode(const QkvSplit& split) const;
  /// Appends one token of every sequence at a position that the device knows, and attends to the
  /// window: see decode_attention(). The length stays; call advance().
  Tensor decode(const Tensor& packed, const QkvSplit& split, double rope_theta,
                const nn::DecodePosition& at);

  /// Appends k [B, T, Hk, D], turned by absolute positions, and v [B, T, Hk, Dv], and attends to
  /// the window of each: q [B, T, H, D] of the same tokens -> [B, T, H, Dv]. Throws ShapeError,
  /// DTypeError.
  Tensor attend(const Tensor& q, const Tensor& k, const Tensor& v);

 private:
  int64_t capacity_, window_;
  TokenRing k_, v_;
  int64_t length_ = 0;
  std::optional<DecodeScratch> scratch_;
};

/// `capacity`. Throws ConfigError unless both are at least 1.
int64_t checked_capacity(int64_t batch, int64_t capacity);

/// Throws ShapeError unless `more` tokens fit behind `length` in `capacity`.
void check_room(int64_t length, int64_t more, int64_t capacity);

/// What the queries of tokens [length, length + x.size(1)) see of a windowed sequence whose earlier
/// rows lie in `ring`: the last window - 1 of those, then x itself. [B, n, H, D], oldest first.
Tensor with_earlier_rows(const TokenRing& ring, const Tensor& x, int64_t length, int64_t window);

}  // namespace weft::attention
