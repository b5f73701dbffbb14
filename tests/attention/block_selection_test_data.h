#pragma once

#include <algorithm>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "weft/attention/kernels/block_selection.h"
#include "weft/attention/kernels/flash_attention.h"

#include "attention_test_data.h"
#include "reference/block_selection_reference.h"
#include "selection_test_data.h"

namespace weft::attention::testing {

struct BlockSelectionCase {
  int64_t batch = 1, queries = 1, heads = 1, groups = 1, dim = 8;
  BlockSelectionOptions options{};
  DType dtype = DType::f64;
};

inline void PrintTo(const BlockSelectionCase& c, std::ostream* out) {
  const BlockSelectionOptions& o = c.options;
  *out << "B" << c.batch << " T" << c.queries << " H" << c.heads << " G" << c.groups << " D"
       << c.dim << " l" << o.compression_block << " d" << o.compression_stride << " l'"
       << o.key_block << " n" << o.count << " initial" << o.initial << " local" << o.local << " r"
       << o.query_tile << " " << to_string(c.dtype);
}

inline int64_t compressed_keys(int64_t tokens, const BlockSelectionOptions& o) {
  return tokens < o.compression_block ? 0
                                      : (tokens - o.compression_block) / o.compression_stride + 1;
}

/// A whole sequence, from which calls take parts.
struct BlockSelectionSequence {
  explicit BlockSelectionSequence(const BlockSelectionCase& c, uint64_t seed = 1,
                                  double deviation = 1)
      : BlockSelectionSequence(
            random_tensor({c.batch, c.queries, c.heads, c.dim}, c.dtype, seed, deviation),
            random_tensor({c.batch, compressed_keys(c.queries, c.options), c.groups, c.dim},
                          c.dtype, seed + 1),
            c.options) {}
  BlockSelectionSequence(Tensor q_in, Tensor k_in, const BlockSelectionOptions& o)
      : options(o), q(std::move(q_in)), k(std::move(k_in)) {
    lse = flash_attention_forward(q, k, k,
                                  {.scale = o.scale,
                                   .position = 0,
                                   .key_length = o.compression_block,
                                   .key_stride = o.compression_stride})
              .lse;
  }

  int64_t length() const { return q.size(1); }

  /// The lists of the queries [begin, end), with as many keys as there are by then.
  Selection select(int64_t begin, int64_t end, const Selection* inherited = nullptr) const {
    return select_blocks(q.slice(1, begin, end), k.slice(1, 0, compressed_keys(end, options)),
                         lse.slice(2, begin, end), begin, end, options, inherited);
  }
  Selection select() const { return select(0, length()); }

  BlockSelectionOptions options;
  Tensor q, k, lse;
};

inline std::vector<int32_t> list_of(const Selection& selection, int64_t batch, int64_t group,
                                    int64_t tile) {
  const auto list = selection.list(batch, group, tile);
  return {list.begin(), list.end()};
}

/// The lists against the oracle: the same where the choice is clearer than `tolerance`, and never
/// a block that is less important by more than that.
inline void expect_matches(const Selection& selection,
                           const reference::BlockSelectionOutput& expected, double tolerance,
                           const BlockSelectionOptions& options, const std::string& what) {
  const SelectionShape& shape = selection.shape();
  ASSERT_EQ(shape, expected.selection.shape()) << what;
  const std::vector<double> gaps = expected.gap.to_vector<double>();
  const std::vector<double> importance = expected.importance.to_vector<double>();
  int64_t index = 0;
  for (int64_t b = 0; b < shape.batch; ++b) {
    for (int64_t g = 0; g < shape.groups; ++g) {
      for (int64_t tile = 0; tile < shape.tiles(); ++tile, ++index) {
        const std::vector<int32_t> list = list_of(selection, b, g, tile);
        const std::vector<int32_t> best = list_of(expected.selection, b, g, tile);
        const std::string where = what + " at " + std::to_string(b) + ", " + std::to_string(g) +
                                  ", " + std::to_string(tile);
        if (gaps[index] > tolerance) {
          ASSERT_EQ(list, best) << where << " gap " << gaps[index];
          continue;
        }
        ASSERT_EQ(list.size(), best.size()) << where;
        const int64_t leader = (shape.position / shape.query_tile + tile) * shape.query_tile;
        const int64_t own = leader / shape.key_block;
        const double* const scores = importance.data() + index * shape.blocks();
        double least = std::numeric_limits<double>::infinity(), most = 0;
        for (int32_t block = 0; block <= own; ++block) {
          const bool forced = block < options.initial || block > own - options.local;
          const bool taken = std::binary_search(list.begin(), list.end(), block);
          if (forced) {
            ASSERT_TRUE(taken) << where;
          } else if (taken) {
            least = std::min(least, scores[block]);
          } else {
            most = std::max(most, scores[block]);
          }
        }
        ASSERT_LE(list.back(), own) << where;
        ASSERT_GE(least, most - tolerance) << where;
      }
    }
  }
}

/// Importances are sums of probabilities: of the order of the heads of a group.
inline double tolerance_of(const BlockSelectionCase& c) {
  return (c.dtype == DType::f64 ? 1e-13 : 4e-6) * static_cast<double>(c.heads / c.groups) *
         static_cast<double>(c.options.compression_block / c.options.compression_stride);
}

inline void expect_matches_oracle(const BlockSelectionCase& c, uint64_t seed = 1) {
  const BlockSelectionSequence x(c, seed, 2);
  expect_matches(x.select(), reference::select_blocks(x.q, x.k, 0, x.length(), c.options),
                 tolerance_of(c), c.options, ::testing::PrintToString(c));
}

/// Selects in calls that end at `ends`, each inheriting from the one before, and compares every
/// query's list with that of one call.
inline void expect_split_agrees(const BlockSelectionSequence& x, const std::vector<int64_t>& ends) {
  const Selection all = x.select();
  std::optional<Selection> before;
  int64_t begin = 0;
  for (const int64_t end : ends) {
    Selection part = x.select(begin, end, before.has_value() ? &*before : nullptr);
    for (int64_t b = 0; b < part.shape().batch; ++b) {
      for (int64_t g = 0; g < part.shape().groups; ++g) {
        for (int64_t t = begin; t < end; ++t) {
          ASSERT_EQ(list_of(part, b, g, part.shape().tile_of(t - begin)),
                    list_of(all, b, g, all.shape().tile_of(t)))
              << "query " << t << " in the call from " << begin << " to " << end;
        }
      }
    }
    before = std::move(part);
    begin = end;
  }
}

}  // namespace weft::attention::testing
