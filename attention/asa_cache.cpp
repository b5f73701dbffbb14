#include "weft/attention/asa_cache.h"

#include <utility>
#include <vector>

#include "weft/attention/window_cache.h"

namespace weft::attention {

AsaCache::AsaCache(int64_t batch, int64_t capacity, const AsaCacheOptions& options, DType dtype,
                   Device device)
    : options_(options),
      capacity_(checked_capacity(batch, capacity)),
      latents_(batch, options.groups, capacity, options.latent_dim, dtype, device),
      rope_keys_(batch, 1, capacity, options.rope_dim, dtype, device),
      block_latents_(batch, options.groups, options.blocks.count(capacity), options.latent_dim,
                     dtype, device),
      block_rope_keys_(batch, 1, options.blocks.count(capacity), options.rope_dim, dtype, device),
      raw_rope_keys_(options.blocks, batch, capacity, 1, options.rope_dim, dtype, device),
      lists_(full({batch, options.groups, options.select_count}, -1, DType::i32)),
      device_(device) {}

int64_t AsaCache::bytes() const {
  return latents_.bytes() + rope_keys_.bytes() + block_latents_.bytes() + block_rope_keys_.bytes() +
         raw_rope_keys_.bytes() + lists_.numel() * static_cast<int64_t>(sizeof(int32_t));
}

void AsaCache::reset() {
  length_ = complete_ = 0;
  raw_rope_keys_.reset();
}

AsaCache::Rows AsaCache::append(const Tensor& latents, const Tensor& rope_keys,
                                const Tensor& raw_rope_keys) {
  const int64_t count = latents.size(1);
  check_room(length_, count, capacity_);
  latents_.write(latents, length_);
  Rows rows;
  if (rope_keys.defined()) {
    rope_keys_.write(rope_keys, length_);
    rows.rope_keys = raw_rope_keys_.append(raw_rope_keys);
  }
  length_ += count;
  const BlockShape& shape = options_.blocks;
  const int64_t complete = shape.count(length_);
  const int64_t first = complete_ * shape.stride;
  rows.latents = complete == complete_
                     ? latents.slice(1, 0, 0)
                     : latents_.read(first, (complete - 1) * shape.stride + shape.block);
  return rows;
}

void AsaCache::append_blocks(const Tensor& latents, const Tensor& rope_keys) {
  block_latents_.write(latents, complete_);
  if (rope_keys.defined()) block_rope_keys_.write(rope_keys, complete_);
  complete_ += latents.size(1);
}

AsaCache::Rows AsaCache::tokens() const {
  return {latents_.kept(length_), options_.rope_dim > 0 ? rope_keys_.kept(length_) : Tensor()};
}

AsaCache::Rows AsaCache::blocks() const {
  return {block_latents_.kept(complete_),
          options_.rope_dim > 0 ? block_rope_keys_.kept(complete_) : Tensor()};
}

void AsaCache::keep_lists(const Selection& chosen) {
  const Selection selection = chosen.to(kCpu);
  const SelectionShape& shape = selection.shape();
  const int64_t slots = options_.select_count;
  auto* const kept = lists_.data<int32_t>();
  for (int64_t list = 0; list < shape.batch * shape.groups; ++list) {
    const auto blocks = selection.list(list / shape.groups, list % shape.groups, shape.tiles() - 1);
    for (int64_t i = 0; i < slots; ++i) {
      kept[list * slots + i] =
          i < static_cast<int64_t>(blocks.size()) ? blocks[static_cast<size_t>(i)] : -1;
    }
  }
}

Selection AsaCache::kept_lists() const {
  const SelectionShape shape{.batch = lists_.size(0),
                             .groups = options_.groups,
                             .queries = 1,
                             .keys = length_,
                             .position = length_ - 1,
                             .query_tile = options_.query_run,
                             .key_block = options_.select_block};
  const int64_t slots = options_.select_count;
  const auto* const kept = std::as_const(lists_).data<int32_t>();
  std::vector<std::vector<int32_t>> lists(static_cast<size_t>(shape.lists()));
  for (size_t list = 0; list < lists.size(); ++list) {
    for (int64_t i = 0; i < slots; ++i) {
      const int32_t block = kept[static_cast<int64_t>(list) * slots + i];
      if (block >= 0) lists[list].push_back(block);
    }
  }
  return Selection::from_lists(shape, lists).to(device_);
}

}  // namespace weft::attention
