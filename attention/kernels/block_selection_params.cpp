#include "kernels/block_selection_params.h"

#include <algorithm>
#include <limits>

#include "weft/tensor/check.h"

namespace weft::attention {

BlockSelectionParams selection_params(const char* op, const SelectionShape& shape,
                                      const BlockSelectionOptions& options) {
  const int64_t blocks = shape.blocks();
  constexpr int64_t kMostBlocks = std::numeric_limits<int32_t>::max();
  WEFT_CHECK(blocks <= kMostBlocks, ShapeError, "{}: takes up to {} blocks, got {}", op,
             kMostBlocks, blocks);
  BlockSelectionParams params;
  params.batch = shape.batch;
  params.queries = shape.queries;
  params.groups = shape.groups;
  params.position = shape.position;
  params.compression_block = options.compression_block;
  params.compression_stride = options.compression_stride;
  params.key_block = shape.key_block;
  params.query_tile = shape.query_tile;
  params.count = std::min(options.count, blocks);
  params.initial = std::min(options.initial, blocks);
  params.local = std::min(options.local, blocks);
  params.tiles = shape.tiles();
  if (options.scale.has_value()) params.scale = *options.scale;
  return params;
}

}  // namespace weft::attention
