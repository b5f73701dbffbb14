#pragma once

#include <cstdint>
#include <optional>

#include "weft/attention/kernels/decode_attention.h"
#include "weft/nn/sequence_mixer.h"
#include "weft/tensor/tensor.h"

namespace weft::attention {

/// Keys and values of all tokens seen so far. A head's rows lie side by side in memory, so that a
/// decoding step streams through them.
class KvCache final : public nn::MixerCache {
 public:
  KvCache(int64_t batch, int64_t capacity, int64_t kv_heads, int64_t dim, int64_t value_dim,
          DType dtype, Device device);

  int64_t length() const override { return length_; }
  int64_t capacity() const override { return k_.size(2); }
  int64_t bytes() const override;
  void reset() override { length_ = 0; }
  void advance(int64_t tokens) override;

  /// Whether decode() waits for nothing, or runs on the CPU.
  bool can_decode(const QkvSplit& split) const;
  /// Appends one token of every sequence at a position that the device knows, and attends to all:
  /// see decode_attention(). The length stays; call advance().
  Tensor decode(const Tensor& packed, const QkvSplit& split, double rope_theta,
                const nn::DecodePosition& at);

  /// Appends k [B, T, Hk, D] and v [B, T, Hk, Dv]. Throws ShapeError when the batch differs or they
  /// do not fit, DTypeError when they have another type than the cache.
  void append(const Tensor& k, const Tensor& v);
  Tensor keys() const;    ///< [B, length, Hk, D], a view
  Tensor values() const;  ///< [B, length, Hk, Dv], a view

 private:
  Tensor k_, v_;  // [B, Hk, capacity, D or Dv]
  int64_t length_ = 0;
  std::optional<DecodeScratch> scratch_;
};

/// The rotary table of decode_attention(), or an undefined one for rope_theta = 0.
Tensor decode_table(const QkvSplit& split, double rope_theta, int64_t positions, DType dtype,
                    Device device);

}  // namespace weft::attention
