#include "weft/attention/selection_patterns.h"

#include <algorithm>
#include <numeric>

#include "weft/tensor/check.h"

#include "selection_builder.h"

namespace weft::attention {
namespace {

/// Blocks [first(tile), eligible_blocks(tile)) of every list.
template <class First>
Selection trailing_blocks(const SelectionShape& shape, const First& first) {
  check_selection_shape(shape);
  const int64_t tiles = shape.tiles();
  const auto length = [&](int64_t list) {
    return std::max<int64_t>(eligible_blocks(shape, list % tiles) - first(list % tiles), 0);
  };
  return build_selection(shape, length, [&](int64_t list, int32_t* to) {
    int32_t* const end = to + length(list);
    std::iota(to, end, static_cast<int32_t>(first(list % tiles)));
    return end;
  });
}

}  // namespace

Selection pattern_selection(const SelectionShape& shape, const BlockRule& keeps) {
  check_selection_shape(shape);
  WEFT_CHECK(keeps != nullptr, ConfigError, "pattern_selection: needs a rule, got none");
  const int64_t tiles = shape.tiles();
  return build_selection(
      shape, [&](int64_t list) { return eligible_blocks(shape, list % tiles); },
      [&](int64_t list, int32_t* to) {
        const int64_t tile = list % tiles, group = list / tiles % shape.groups;
        const int64_t own = (shape.position + shape.last_query(tile) - 1) / shape.key_block;
        for (int64_t block = 0; block < eligible_blocks(shape, tile); ++block) {
          if (keeps(group, own, block)) *to++ = static_cast<int32_t>(block);
        }
        return to;
      });
}

Selection causal_selection(const SelectionShape& shape) {
  return trailing_blocks(shape, [](int64_t /*tile*/) { return 0; });
}

Selection window_selection(const SelectionShape& shape, int64_t window) {
  WEFT_CHECK(window >= 1, ConfigError, "window_selection: window must be at least 1, got {}",
             window);
  return trailing_blocks(shape, [&](int64_t tile) {
    const int64_t query = shape.position + shape.first_query(tile);
    const int64_t key = query < window ? 0 : query - window + 1;
    return key < shape.keys ? key / shape.key_block : shape.blocks();
  });
}

}  // namespace weft::attention
