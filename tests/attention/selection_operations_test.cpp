#include "weft/attention/selection_operations.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <limits>

#include "weft/attention/kernels/block_selection.h"
#include "weft/attention/selection_patterns.h"
#include "weft/tensor/parallel.h"

#include "attention_test_data.h"
#include "selection_test_data.h"

namespace weft::attention {
namespace {

using testing::describe;
using testing::Draw;
using testing::Lists;
using testing::lists_of;
using testing::message_of;
using testing::random_selection;
using testing::random_shape;
using testing::same_bits;

/// Two groups of three tiles: queries 0-1, 2-3, 4-5 over blocks of 2 of 5 keys.
const SelectionShape kSmall{.groups = 2, .queries = 6, .keys = 5, .query_tile = 2, .key_block = 2};

TEST(TransposedSelection, ListsTheReadersOfABlock) {
  const SelectionShape shape{.groups = 2, .queries = 3, .keys = 9, .key_block = 4};
  const Selection selection = Selection::from_lists(shape, {{0, 2}, {0}, {0, 1}, {1}, {}, {1, 2}});
  const TransposedSelection readers = transposed(selection);
  const auto list = [&](int64_t group, int64_t block) {
    const auto tiles = readers.list(0, group, block);
    return std::vector<int32_t>(tiles.begin(), tiles.end());
  };
  EXPECT_EQ(list(0, 0), (std::vector<int32_t>{0, 1, 2}));
  EXPECT_EQ(list(0, 1), (std::vector<int32_t>{2}));
  EXPECT_EQ(list(0, 2), (std::vector<int32_t>{0}));
  EXPECT_EQ(list(1, 0), (std::vector<int32_t>{}));
  EXPECT_EQ(list(1, 1), (std::vector<int32_t>{0, 2}));
  EXPECT_EQ(list(1, 2), (std::vector<int32_t>{2}));
  EXPECT_EQ(readers.shape(), shape);
  EXPECT_THROW(readers.list(0, 0, 3), IndexError);
  EXPECT_THROW(readers.list(0, 2, 0), IndexError);
  EXPECT_THROW(readers.list(-1, 0, 0), IndexError);
}

TEST(TransposedSelection, HoldsTheSamePairsInAscendingOrder) {
  Draw draw(5);
  for (int i = 0; i < 200; ++i) {
    const SelectionShape shape = random_shape(draw);
    const Selection selection = random_selection(shape, draw);
    const TransposedSelection readers = transposed(selection);
    int64_t found = 0;
    for (int64_t b = 0; b < shape.batch; ++b) {
      for (int64_t g = 0; g < shape.groups; ++g) {
        for (int32_t block = 0; block < shape.blocks(); ++block) {
          int32_t before = -1;
          for (const int32_t tile : readers.list(b, g, block)) {
            ASSERT_GT(tile, before) << describe(shape);
            before = tile;
            const auto list = selection.list(b, g, tile);
            ASSERT_TRUE(std::binary_search(list.begin(), list.end(), block)) << describe(shape);
            ++found;
          }
        }
      }
    }
    ASSERT_EQ(found, selection.total()) << describe(shape);
    const Selection back = transposed(readers);
    ASSERT_EQ(back.shape(), shape);
    ASSERT_EQ(lists_of(back), lists_of(selection)) << describe(shape);
  }
}

TEST(TransposedSelection, DoesNotDependOnTheNumberOfThreads) {
  Draw draw(6);
  const int threads = num_threads();
  const Selection selection = random_selection(
      {.batch = 3, .groups = 5, .queries = 300, .keys = 900, .query_tile = 2, .key_block = 8},
      draw);
  set_num_threads(1);
  const TransposedSelection one = transposed(selection);
  set_num_threads(4);
  const TransposedSelection four = transposed(selection);
  set_num_threads(threads);
  EXPECT_TRUE(same_bits(one.offsets(), four.offsets()));
  EXPECT_TRUE(same_bits(one.tiles(), four.tiles()));
}

// Set operations.

TEST(SelectionOperations, CombineLists) {
  const Selection a = Selection::from_lists(kSmall, {{0, 2}, {}, {1}, {0, 1, 2}, {2}, {}});
  const Selection b = Selection::from_lists(kSmall, {{0, 1}, {1}, {1}, {1}, {}, {}});
  EXPECT_EQ(lists_of(unite(a, b)), (Lists{{0, 1, 2}, {1}, {1}, {0, 1, 2}, {2}, {}}));
  EXPECT_EQ(lists_of(intersect(a, b)), (Lists{{0}, {}, {1}, {1}, {}, {}}));
  EXPECT_EQ(lists_of(subtract(a, b)), (Lists{{2}, {}, {}, {0, 2}, {2}, {}}));
  EXPECT_EQ(unite(a, b).shape(), kSmall);
  EXPECT_EQ(count(a).to_vector<int64_t>(), (std::vector<int64_t>{2, 0, 1, 3, 1, 0}));
  EXPECT_EQ(count(a).shape(), Shape({1, 2, 3}));
  const SelectionOverlap alike = overlap(a, b);
  EXPECT_EQ(alike.jaccard.to_vector<double>(), (std::vector<double>{1.0 / 3, 0, 1, 1.0 / 3, 0, 1}));
  EXPECT_NEAR(alike.mean, (2.0 / 3 + 2) / 6, 1e-15);
}

TEST(SelectionOperations, ClipAndForceByPosition) {
  const Selection all = Selection::from_lists(kSmall, Lists(6, {0, 1, 2}));
  EXPECT_EQ(lists_of(clip_to_causal(all)), (Lists{{0}, {0, 1}, {0, 1, 2}, {0}, {0, 1}, {0, 1, 2}}));
  const Selection none = Selection::from_lists(kSmall, Lists(6));
  EXPECT_EQ(lists_of(with_forced(none, 1, 1)), (Lists{{0}, {0, 1}, {0, 2}, {0}, {0, 1}, {0, 2}}));
  EXPECT_EQ(lists_of(with_forced(none, 0, 2)), (Lists{{0}, {0, 1}, {1, 2}, {0}, {0, 1}, {1, 2}}));
  EXPECT_EQ(lists_of(with_forced(none, 2, 0)), (Lists{{0}, {0, 1}, {0, 1}, {0}, {0, 1}, {0, 1}}));
  // What is listed stays, also where no query sees it.
  const Selection late = Selection::from_lists(kSmall, Lists(6, {2}));
  EXPECT_EQ(lists_of(with_forced(late, 1, 1)),
            (Lists{{0, 2}, {0, 1, 2}, {0, 2}, {0, 2}, {0, 1, 2}, {0, 2}}));
  constexpr int64_t kMany = std::numeric_limits<int64_t>::max();
  EXPECT_EQ(lists_of(with_forced(none, kMany, kMany)), lists_of(causal_selection(kSmall)));
}

TEST(SelectionOperations, MeasureWhatIsRead) {
  const Selection selection =
      Selection::from_lists(kSmall, {{0, 2}, {}, {2}, {0}, {0, 1}, {0, 1, 2}});
  // Eligible are 1, 2 and 3 blocks a group; block 2 of the first tile is not.
  EXPECT_DOUBLE_EQ(density(selection), (1 + 0 + 1 + 1 + 2 + 3) / 12.0);
  // Query 4 sees key 4 of block 2, and 5 as well: there is no sixth key.
  EXPECT_EQ(visible_pairs(selection), 3 + 0 + 2 + 3 + 7 + 10);
}

TEST(SelectionOperations, MeasuresOfNothing) {
  SelectionShape shape = kSmall;
  shape.queries = 0;
  const Selection none = Selection::from_lists(shape, {});
  EXPECT_EQ(density(none), 0);
  EXPECT_EQ(visible_pairs(none), 0);
  EXPECT_EQ(overlap(none, none).mean, 1);
  EXPECT_EQ(count(none).numel(), 0);
  EXPECT_EQ(unite(none, none).total(), 0);
  EXPECT_EQ(with_forced(none, 1, 1).total(), 0);
  EXPECT_EQ(causal_selection(shape).total(), 0);
  shape = kSmall;
  shape.keys = 0;
  EXPECT_EQ(density(Selection::from_lists(shape, Lists(6))), 0);
  EXPECT_EQ(causal_selection(shape).total(), 0);
  EXPECT_EQ(with_forced(Selection::from_lists(shape, Lists(6)), 2, 2).total(), 0);
}

TEST(SelectionOperations, BadInputIsNamed) {
  const auto expect = [](const std::string& message, const std::string& part) {
    EXPECT_NE(message.find(part), std::string::npos) << message;
  };
  const Selection a = causal_selection(kSmall);
  SelectionShape shape = kSmall;
  shape.position = 2;
  const Selection b = causal_selection(shape);
  for (const auto& [name, call] : std::vector<std::pair<std::string, std::function<void()>>>{
           {"unite", [&] { unite(a, b); }},
           {"intersect", [&] { intersect(a, b); }},
           {"subtract", [&] { subtract(a, b); }},
           {"overlap", [&] { overlap(a, b); }}}) {
    const std::string text = message_of<ShapeError>(call);
    expect(text, name + ": selections must have one shape");
    expect(text, "position 0");
    expect(text, "position 2");
  }
  expect(message_of<ConfigError>([&] { with_forced(a, -1, 2); }),
         "initial and local must be at least 0, got -1 and 2");
  expect(message_of<ConfigError>([&] { with_forced(a, 1, -2); }), "got 1 and -2");
  expect(message_of<ConfigError>([&] { window_selection(kSmall, 0); }),
         "window must be at least 1, got 0");
  shape.groups = 0;
  expect(message_of<ShapeError>([&] { causal_selection(shape); }), "groups of at least 1");
  expect(message_of<ShapeError>([&] { window_selection(shape, 1); }), "groups of at least 1");
  expect(message_of<ShapeError>([&] { pattern_selection(shape, {}); }), "groups of at least 1");
  EXPECT_THROW(pattern_selection(kSmall, {}), ConfigError);
}

// Laws, on random selections.

/// Whether a query row of the call sees a key, as in a causal kernel.
bool sees(const SelectionShape& shape, int64_t query, int64_t key) {
  return key <= shape.position + query;
}

void expect_laws(const SelectionShape& shape, Draw& draw) {
  SCOPED_TRACE(describe(shape));
  const Selection a = random_selection(shape, draw), b = random_selection(shape, draw),
                  c = random_selection(shape, draw);
  const auto same = [](const Selection& x, const Selection& y) {
    return x.shape() == y.shape() && lists_of(x) == lists_of(y);
  };
  const Selection none = Selection::from_lists(shape, Lists(static_cast<size_t>(shape.lists())));
  EXPECT_TRUE(same(unite(a, b), unite(b, a)));
  EXPECT_TRUE(same(intersect(a, b), intersect(b, a)));
  EXPECT_TRUE(same(unite(unite(a, b), c), unite(a, unite(b, c))));
  EXPECT_TRUE(same(intersect(intersect(a, b), c), intersect(a, intersect(b, c))));
  EXPECT_TRUE(same(intersect(a, unite(b, c)), unite(intersect(a, b), intersect(a, c))));
  EXPECT_TRUE(same(unite(a, intersect(b, c)), intersect(unite(a, b), unite(a, c))));
  EXPECT_TRUE(same(subtract(a, unite(b, c)), intersect(subtract(a, b), subtract(a, c))));
  EXPECT_TRUE(same(unite(subtract(a, b), intersect(a, b)), a));
  EXPECT_TRUE(same(unite(a, intersect(a, b)), a));
  EXPECT_TRUE(same(unite(a, a), a));
  EXPECT_TRUE(same(unite(a, none), a));
  EXPECT_TRUE(same(intersect(a, none), none));
  EXPECT_TRUE(same(subtract(a, a), none));
  EXPECT_TRUE(same(subtract(a, none), a));
  EXPECT_EQ(unite(a, b).total() + intersect(a, b).total(), a.total() + b.total());

  const Selection causal = causal_selection(shape);
  EXPECT_TRUE(same(clip_to_causal(a), intersect(a, causal)));
  EXPECT_TRUE(same(clip_to_causal(clip_to_causal(a)), clip_to_causal(a)));
  EXPECT_EQ(density(causal), causal.total() > 0 ? 1 : 0);
  if (causal.total() > 0) {
    EXPECT_DOUBLE_EQ(density(a) * static_cast<double>(causal.total()),
                     static_cast<double>(clip_to_causal(a).total()));
  }
  EXPECT_EQ(visible_pairs(a), visible_pairs(clip_to_causal(a)));
  EXPECT_EQ(visible_pairs(unite(a, b)) + visible_pairs(intersect(a, b)),
            visible_pairs(a) + visible_pairs(b));

  const int64_t initial = draw(0, 3), local = draw(0, 3);
  const Selection forced = with_forced(none, initial, local);
  EXPECT_TRUE(same(with_forced(a, initial, local), unite(a, forced)));
  EXPECT_TRUE(same(clip_to_causal(forced), forced));

  const SelectionOverlap ab = overlap(a, b), ba = overlap(b, a);
  EXPECT_TRUE(same_bits(ab.jaccard, ba.jaccard));
  EXPECT_EQ(overlap(a, a).mean, 1);
  const std::vector<double> jaccard = ab.jaccard.to_vector<double>();
  const std::vector<int64_t> both = count(intersect(a, b)).to_vector<int64_t>(),
                             either = count(unite(a, b)).to_vector<int64_t>();
  double sum = 0;
  for (size_t i = 0; i < jaccard.size(); ++i) {
    EXPECT_DOUBLE_EQ(jaccard[i] * static_cast<double>(either[i]), static_cast<double>(both[i]));
    if (either[i] == 0) {
      EXPECT_EQ(jaccard[i], 1);
    }
    sum += jaccard[i];
  }
  if (!jaccard.empty()) {
    EXPECT_NEAR(ab.mean, sum / static_cast<double>(jaccard.size()), 1e-12);
  }
}

TEST(SelectionLaws, HoldForRandomSelections) {
  Draw draw(31);
  for (int i = 0; i < 300; ++i) {
    expect_laws(random_shape(draw), draw);
    if (::testing::Test::HasFailure()) return;
  }
}

TEST(SelectionLaws, VisiblePairsAreThoseThatAKernelSees) {
  Draw draw(32);
  for (int i = 0; i < 200; ++i) {
    const SelectionShape shape = random_shape(draw);
    const Selection selection = random_selection(shape, draw);
    int64_t pairs = 0;
    for (int64_t b = 0; b < shape.batch; ++b) {
      for (int64_t g = 0; g < shape.groups; ++g) {
        for (int64_t t = 0; t < shape.queries; ++t) {
          for (const int32_t block : selection.list(b, g, shape.tile_of(t))) {
            for (int64_t s = block * shape.key_block;
                 s < std::min(shape.keys, (block + 1) * shape.key_block); ++s)
              pairs += sees(shape, t, s);
          }
        }
      }
    }
    ASSERT_EQ(visible_pairs(selection), pairs) << describe(shape);
  }
}

TEST(SelectionLaws, ForcedBlocksHoldTheFirstAndTheNearestKeysOfEveryQuery) {
  Draw draw(33);
  for (int i = 0; i < 200; ++i) {
    const SelectionShape shape = random_shape(draw);
    const int64_t initial = draw(0, 3), local = draw(0, 3);
    const Selection forced = with_forced(
        Selection::from_lists(shape, Lists(static_cast<size_t>(shape.lists()))), initial, local);
    if (shape.batch == 0) continue;
    for (int64_t tile = 0; tile < shape.tiles(); ++tile) {
      std::vector<int32_t> expected;
      for (int32_t block = 0; block < shape.blocks(); ++block) {
        bool wanted = false;
        for (int64_t t = shape.first_query(tile); t < shape.last_query(tile); ++t) {
          const int64_t own = (shape.position + t) / shape.key_block;
          wanted = wanted || (block > own - local && block <= own);
        }
        const bool seen = sees(shape, shape.last_query(tile) - 1, block * shape.key_block);
        if (wanted || (block < initial && seen)) expected.push_back(block);
      }
      const auto list = forced.list(0, 0, tile);
      ASSERT_EQ(std::vector<int32_t>(list.begin(), list.end()), expected) << describe(shape);
    }
  }
}

// Patterns.

TEST(SelectionPatterns, HoldEveryKeyThatTheirMaskShows) {
  Draw draw(34);
  for (int i = 0; i < 200; ++i) {
    const SelectionShape shape = random_shape(draw);
    const int64_t window = draw(1, 30);
    const Selection causal = causal_selection(shape), near = window_selection(shape, window);
    if (shape.batch == 0) continue;
    for (int64_t tile = 0; tile < shape.tiles(); ++tile) {
      std::vector<int32_t> all, some;
      for (int32_t block = 0; block < shape.blocks(); ++block) {
        bool seen = false, within = false;
        for (int64_t t = shape.first_query(tile); t < shape.last_query(tile); ++t) {
          for (int64_t s = block * shape.key_block;
               s < std::min(shape.keys, (block + 1) * shape.key_block); ++s) {
            seen = seen || sees(shape, t, s);
            within = within || (sees(shape, t, s) && s > shape.position + t - window);
          }
        }
        if (seen) all.push_back(block);
        if (within) some.push_back(block);
      }
      const auto causal_list = causal.list(shape.batch - 1, shape.groups - 1, tile);
      const auto near_list = near.list(shape.batch - 1, shape.groups - 1, tile);
      ASSERT_EQ(std::vector<int32_t>(causal_list.begin(), causal_list.end()), all)
          << describe(shape);
      ASSERT_EQ(std::vector<int32_t>(near_list.begin(), near_list.end()), some)
          << describe(shape) << " window " << window;
    }
    ASSERT_TRUE(lists_of(window_selection(shape, 1000)) == lists_of(causal));
  }
}

TEST(SelectionPatterns, FollowARule) {
  // Groups read every second block behind their own, each another one.
  const SelectionShape shape{.batch = 2,
                             .groups = 2,
                             .queries = 12,
                             .keys = 20,
                             .position = 8,
                             .query_tile = 4,
                             .key_block = 4};
  const Selection selection = pattern_selection(
      shape,
      [](int64_t group, int64_t own, int64_t block) { return block == own || block % 2 == group; });
  const Lists of_group_0{{0, 2}, {0, 2, 3}, {0, 2, 4}}, of_group_1{{1, 2}, {1, 3}, {1, 3, 4}};
  Lists expected = of_group_0;
  expected.insert(expected.end(), of_group_1.begin(), of_group_1.end());
  const Lists once = expected;
  expected.insert(expected.end(), once.begin(), once.end());
  EXPECT_EQ(lists_of(selection), expected);
}

TEST(SelectionPatterns, DistancesOfPowersOfTwoReachEveryBlock) {
  // Block i reads i - 2^k and itself: through m layers, all blocks whose distance has at most m
  // bits set (arXiv 2503.03588).
  const SelectionShape shape{.queries = 600, .keys = 600, .query_tile = 6, .key_block = 6};
  const Selection lists =
      pattern_selection(shape, [](int64_t /*group*/, int64_t own, int64_t block) {
        return block == own || std::has_single_bit(static_cast<uint64_t>(own - block));
      });
  std::vector<std::vector<bool>> reached(100, std::vector<bool>(100));
  for (size_t i = 0; i < 100; ++i) reached[i][i] = true;
  for (int layers = 1; layers <= 7; ++layers) {
    auto next = reached;
    for (size_t i = 0; i < 100; ++i) {
      for (const int32_t via : lists.list(0, 0, static_cast<int64_t>(i))) {
        for (size_t j = 0; j < 100; ++j) next[i][j] = next[i][j] || reached[via][j];
      }
    }
    reached = std::move(next);
    for (size_t i = 0; i < 100; ++i) {
      for (size_t j = 0; j < 100; ++j)
        ASSERT_EQ(reached[i][j], j <= i && std::popcount(i - j) <= layers) << i << " " << j;
    }
  }
}

TEST(SelectionPatterns, ForcedBlocksAreThoseOfBlockSelection) {
  // As many blocks as are forced: nothing is chosen by importance.
  for (const int64_t tile : {1, 2, 4}) {
    const BlockSelectionOptions options{.compression_block = 4,
                                        .compression_stride = 2,
                                        .key_block = 4,
                                        .count = 5,
                                        .initial = 2,
                                        .local = 3,
                                        .query_tile = tile};
    const Selection chosen =
        select_blocks(ones({2, 50, 2, 4}), ones({2, 24, 1, 4}), zeros({2, 2, 50}), 0, 50, options);
    const Selection none =
        Selection::from_lists(chosen.shape(), Lists(static_cast<size_t>(chosen.shape().lists())));
    EXPECT_EQ(lists_of(chosen), lists_of(with_forced(none, 2, 3))) << tile;
  }
}

}  // namespace
}  // namespace weft::attention
