#include "weft/attention/selection.h"

#include <limits>
#include <utility>

#include "weft/tensor/check.h"

#include "selection_builder.h"

namespace weft::attention {

void check_selection_shape(const SelectionShape& shape) {
  WEFT_CHECK(
      shape.batch >= 0 && shape.groups >= 1 && shape.queries >= 0 && shape.keys >= 0, ShapeError,
      "selection: needs batch, queries and keys of at least 0 and groups of at least 1, got {}, "
      "{}, {} and {}",
      shape.batch, shape.queries, shape.keys, shape.groups);
  WEFT_CHECK(shape.position >= 0, ConfigError, "selection: position must be at least 0, got {}",
             shape.position);
  WEFT_CHECK(shape.query_tile >= 1 && shape.key_block >= 1, ConfigError,
             "selection: query_tile and key_block must be at least 1, got {} and {}",
             shape.query_tile, shape.key_block);
  WEFT_CHECK(shape.blocks() <= std::numeric_limits<int32_t>::max(), ShapeError,
             "selection: takes up to {} blocks, got {}", std::numeric_limits<int32_t>::max(),
             shape.blocks());
}

int64_t SelectionShape::tiles() const {
  return queries == 0 ? 0 : tile_of(queries - 1) + 1;
}

int64_t SelectionShape::blocks() const {
  return keys == 0 ? 0 : (keys - 1) / key_block + 1;
}

int64_t SelectionShape::first_query(int64_t tile) const {
  const int64_t first = (position / query_tile + tile) * query_tile - position;
  return first < 0 ? 0 : first > queries ? queries : first;
}

Selection::Selection(const SelectionShape& shape, Tensor offsets, Tensor blocks)
    : shape_(shape), offsets_(std::move(offsets)), blocks_(std::move(blocks)) {
  check_selection_shape(shape_);
  WEFT_CHECK(offsets_.defined() && offsets_.shape() == Shape({shape_.lists() + 1}), ShapeError,
             "selection: offsets must be [{}], got {}", shape_.lists() + 1, offsets_);
  WEFT_CHECK(blocks_.defined() && blocks_.rank() == 1, ShapeError,
             "selection: blocks must have one axis, got {}", blocks_);
  WEFT_CHECK(offsets_.dtype() == DType::i64 && blocks_.dtype() == DType::i32, DTypeError,
             "selection: offsets must be i64 and blocks i32, got {} and {}", offsets_, blocks_);
  WEFT_CHECK(blocks_.device() == offsets_.device(), DeviceError,
             "selection: offsets and blocks must be on one device, got {} and {}", offsets_,
             blocks_);
  offsets_ = offsets_.contiguous();
  blocks_ = blocks_.contiguous();
  if (!device().is_cpu()) return;
  const auto* const starts = std::as_const(offsets_).data<int64_t>();
  const auto* const entries = std::as_const(blocks_).data<int32_t>();
  WEFT_CHECK(starts[0] == 0 && starts[shape_.lists()] <= blocks_.numel(), IndexError,
             "selection: offsets must run from 0 to at most {} blocks, got {} to {}",
             blocks_.numel(), starts[0], starts[shape_.lists()]);
  const int64_t known = shape_.blocks();
  for (int64_t list = 0; list < shape_.lists(); ++list) {
    WEFT_CHECK(starts[list] <= starts[list + 1] && starts[list + 1] <= blocks_.numel(), IndexError,
               "selection: offsets must ascend to at most {}, got {} after {} at list {}",
               blocks_.numel(), starts[list + 1], starts[list], list);
    int64_t before = -1;
    for (int64_t i = starts[list]; i < starts[list + 1]; ++i) {
      WEFT_CHECK(entries[i] > before && entries[i] < known, IndexError,
                 "selection: list {} must name blocks of 0 to {} in ascending order, got {} after "
                 "{}",
                 list, known - 1, entries[i], before);
      before = entries[i];
    }
  }
}

Selection Selection::from_lists(const SelectionShape& shape,
                                const std::vector<std::vector<int32_t>>& lists) {
  check_selection_shape(shape);
  std::vector<int64_t> offsets = {0};
  std::vector<int32_t> blocks;
  for (const std::vector<int32_t>& list : lists) {
    blocks.insert(blocks.end(), list.begin(), list.end());
    offsets.push_back(static_cast<int64_t>(blocks.size()));
  }
  return {shape, from_vector(offsets, {static_cast<int64_t>(offsets.size())}),
          from_vector(blocks, {static_cast<int64_t>(blocks.size())})};
}

Selection Selection::to(Device to) const {
  return to == device() ? *this : Selection(shape_, offsets_.to(to), blocks_.to(to));
}

std::span<const int32_t> Selection::list(int64_t batch, int64_t group, int64_t tile) const {
  WEFT_CHECK(batch >= 0 && batch < shape_.batch && group >= 0 && group < shape_.groups &&
                 tile >= 0 && tile < shape_.tiles(),
             IndexError, "selection: no list ({}, {}, {}) among {} x {} x {}", batch, group, tile,
             shape_.batch, shape_.groups, shape_.tiles());
  const auto* const starts = offsets_.data<int64_t>();
  const int64_t index = (batch * shape_.groups + group) * shape_.tiles() + tile;
  return {blocks_.data<int32_t>() + starts[index],
          static_cast<size_t>(starts[index + 1] - starts[index])};
}

int64_t Selection::room() const {
  return device().is_cpu() ? total() : blocks_.numel();
}

int64_t Selection::total() const {
  return offsets_.slice(0, shape_.lists(), shape_.lists() + 1).to(kCpu).item<int64_t>();
}

}  // namespace weft::attention
