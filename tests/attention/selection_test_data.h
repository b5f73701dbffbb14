#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "weft/attention/selection.h"

#include "attention_test_data.h"

namespace weft::attention::testing {

using Lists = std::vector<std::vector<int32_t>>;

/// All lists in the order [batch, group, tile].
inline Lists lists_of(const Selection& selection) {
  const SelectionShape& shape = selection.shape();
  Lists lists;
  for (int64_t b = 0; b < shape.batch; ++b) {
    for (int64_t g = 0; g < shape.groups; ++g) {
      for (int64_t tile = 0; tile < shape.tiles(); ++tile) {
        const auto list = selection.list(b, g, tile);
        lists.emplace_back(list.begin(), list.end());
      }
    }
  }
  return lists;
}

inline std::string describe(const SelectionShape& s) {
  return "batch " + std::to_string(s.batch) + " groups " + std::to_string(s.groups) + " queries " +
         std::to_string(s.queries) + " keys " + std::to_string(s.keys) + " position " +
         std::to_string(s.position) + " query_tile " + std::to_string(s.query_tile) +
         " key_block " + std::to_string(s.key_block);
}

inline SelectionShape random_shape(Draw& draw) {
  SelectionShape shape;
  shape.batch = draw(0, 9) == 0 ? 0 : draw(1, 3);
  shape.groups = draw(1, 3);
  shape.queries = draw(0, 40);
  shape.keys = draw(0, 80);
  shape.position = draw(0, 30);
  shape.query_tile = draw(1, 7);
  shape.key_block = draw(1, 9);
  return shape;
}

/// Every block in a list with the same probability, which differs from list to list: some are
/// empty, some full.
inline Selection random_selection(const SelectionShape& shape, Draw& draw) {
  Lists lists(static_cast<size_t>(shape.lists()));
  for (std::vector<int32_t>& list : lists) {
    const double probability = static_cast<double>(draw(0, 4)) / 4;
    for (int64_t block = 0; block < shape.blocks(); ++block) {
      if (draw.chance(probability)) list.push_back(static_cast<int32_t>(block));
    }
  }
  return Selection::from_lists(shape, lists);
}

}  // namespace weft::attention::testing
