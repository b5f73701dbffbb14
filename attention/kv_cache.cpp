#include "weft/attention/kv_cache.h"

#include "weft/tensor/check.h"

namespace weft::attention {

Tensor decode_table(const QkvSplit& split, double rope_theta, int64_t positions, DType dtype,
                    Device device) {
  if (rope_theta == 0) return {};
  return shared_rope_table(rope_theta, split.head_dim, positions,
                           dtype == DType::f64 ? DType::f64 : DType::f32, device);
}

KvCache::KvCache(int64_t batch, int64_t capacity, int64_t kv_heads, int64_t dim, int64_t value_dim,
                 DType dtype, Device device) {
  WEFT_CHECK(batch >= 1 && capacity >= 1, ConfigError,
             "KvCache: needs at least 1 sequence and 1 token, got {} and {}", batch, capacity);
  k_ = empty({batch, kv_heads, capacity, dim}, dtype, device);
  v_ = empty({batch, kv_heads, capacity, value_dim}, dtype, device);
}

int64_t KvCache::bytes() const {
  return (k_.numel() + v_.numel()) * static_cast<int64_t>(size_of(k_.dtype()));
}

void KvCache::append(const Tensor& k, const Tensor& v) {
  const int64_t count = k.size(1);
  WEFT_CHECK(k.size(0) == k_.size(0), ShapeError, "KvCache: made for {} sequences, got keys {}",
             k_.size(0), k);
  WEFT_CHECK(k.dtype() == k_.dtype(), DTypeError, "KvCache: made for {}, got keys {}", k_.dtype(),
             k);
  WEFT_CHECK(length_ + count <= capacity(), ShapeError,
             "KvCache: {} tokens cached and {} more exceed the capacity of {}", length_, count,
             capacity());
  k_.slice(2, length_, length_ + count).copy_(k.transpose(1, 2));
  v_.slice(2, length_, length_ + count).copy_(v.transpose(1, 2));
  length_ += count;
}

void KvCache::advance(int64_t tokens) {
  WEFT_CHECK(length_ + tokens <= capacity(), ShapeError,
             "KvCache: {} tokens cached and {} more exceed the capacity of {}", length_, tokens,
             capacity());
  length_ += tokens;
}

bool KvCache::can_decode(const QkvSplit& split) const {
  return k_.device().is_cpu() || decodes_at_once(split, k_.dtype(), k_.device());
}

Tensor KvCache::decode(const Tensor& packed, const QkvSplit& split, double rope_theta,
                       const nn::DecodePosition& at) {
  if (!scratch_) scratch_.emplace(k_.size(0), k_.size(2), split, k_.dtype(), k_.device());
  return decode_attention(packed, split, k_, v_, at.position,
                          decode_table(split, rope_theta, capacity(), k_.dtype(), k_.device()),
                          *scratch_, at.settled);
}

Tensor KvCache::keys() const {
  return k_.slice(2, 0, length_).transpose(1, 2);
}

Tensor KvCache::values() const {
  return v_.slice(2, 0, length_).transpose(1, 2);
}

}  // namespace weft::attention
