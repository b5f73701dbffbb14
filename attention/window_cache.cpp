#include "weft/attention/window_cache.h"

#include <algorithm>

#include "weft/attention/kv_cache.h"
#include "weft/tensor/check.h"
#include "weft/tensor/ops/join.h"

namespace weft::attention {

int64_t checked_capacity(int64_t batch, int64_t capacity) {
  WEFT_CHECK(batch >= 1 && capacity >= 1, ConfigError,
             "cache: needs at least 1 sequence and 1 token, got {} and {}", batch, capacity);
  return capacity;
}

void check_room(int64_t length, int64_t more, int64_t capacity) {
  WEFT_CHECK(length + more <= capacity, ShapeError,
             "cache: {} tokens cached and {} more exceed the capacity of {}", length, more,
             capacity);
}

Tensor with_earlier_rows(const TokenRing& ring, const Tensor& x, int64_t length, int64_t window) {
  const int64_t earlier = std::min(length, window - 1);
  return earlier == 0 ? x : cat({ring.read(length - earlier, length), x}, 1);
}

WindowCache::WindowCache(int64_t batch, int64_t capacity, int64_t window, int64_t kv_heads,
                         int64_t dim, int64_t value_dim, DType dtype, Device device)
    : capacity_(checked_capacity(batch, capacity)),
      window_(window),
      k_(batch, kv_heads, std::min(window, capacity), dim, dtype, device),
      v_(batch, kv_heads, std::min(window, capacity), value_dim, dtype, device) {}

Tensor WindowCache::attend(const Tensor& q, const Tensor& k, const Tensor& v) {
  const int64_t count = k.size(1);
  check_room(length_, count, capacity_);
  if (count == 1) {
    k_.write(k, length_);
    v_.write(v, length_);
    length_ += 1;
    // What is left is the window; positions are in the keys, so that their order does not matter.
    return flash_attention_forward(q, k_.kept(length_), v_.kept(length_), {.causal = false}).o;
  }
  const Tensor keys = with_earlier_rows(k_, k, length_, window_);
  const Tensor values = with_earlier_rows(v_, v, length_, window_);
  k_.write(k, length_);
  v_.write(v, length_);
  length_ += count;
  return flash_attention_forward(q, keys, values, {.window = window_}).o;
}

void WindowCache::advance(int64_t tokens) {
  check_room(length_, tokens, capacity_);
  length_ += tokens;
}

bool WindowCache::can_decode(const QkvSplit& split) const {
  const Tensor& keys = k_.slots();
  return keys.device().is_cpu() || decodes_at_once(split, keys.dtype(), keys.device());
}

Tensor WindowCache::decode(const Tensor& packed, const QkvSplit& split, double rope_theta,
                           const nn::DecodePosition& at) {
  Tensor& keys = k_.slots();
  if (!scratch_) scratch_.emplace(keys.size(0), keys.size(2), split, keys.dtype(), keys.device());
  return decode_attention(packed, split, keys, v_.slots(), at.position,
                          decode_table(split, rope_theta, capacity_, keys.dtype(), keys.device()),
                          *scratch_, at.settled);
}

}  // namespace weft::attention
