#include "weft/attention/latent_cache.h"

#include "weft/attention/visible_pairs.h"
#include "weft/attention/window_cache.h"

namespace weft::attention {

LatentCache::LatentCache(int64_t batch, int64_t capacity, int64_t window, int64_t groups,
                         int64_t latent_dim, int64_t rope_dim, DType dtype, Device device)
    : capacity_(checked_capacity(batch, capacity)),
      window_(window),
      latents_(batch, groups, rows_kept(capacity, window), latent_dim, dtype, device),
      rope_keys_(batch, 1, rope_dim > 0 ? rows_kept(capacity, window) : 0, rope_dim, dtype,
                 device) {}

Tensor LatentCache::extend(TokenRing& ring, const Tensor& rows) const {
  const int64_t end = length_ + rows.size(1);
  if (window_ == 0 || rows.size(1) == 1) {
    ring.write(rows, length_);
    return ring.kept(end);  // where nothing is overwritten, that is the sequence itself
  }
  const Tensor seen = with_earlier_rows(ring, rows, length_, window_);
  ring.write(rows, length_);
  return seen;
}

LatentCache::Rows LatentCache::extend(const Tensor& latents, const Tensor& rope_keys) {
  const int64_t count = latents.size(1);
  check_room(length_, count, capacity_);
  Rows rows{extend(latents_, latents),
            rope_keys.defined() ? extend(rope_keys_, rope_keys) : Tensor(), count == 1};
  length_ += count;
  return rows;
}

}  // namespace weft::attention
