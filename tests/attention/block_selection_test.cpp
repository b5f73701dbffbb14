#include "weft/attention/kernels/block_selection.h"

#include <algorithm>
#include <limits>

#include "weft/tensor/parallel.h"

#include "attention_test_data.h"
#include "block_selection_test_data.h"
#include "reference/block_selection_reference.h"
#include "selection_test_data.h"

namespace weft::attention {
namespace {

using testing::compressed_keys;
using testing::Draw;
using testing::expect_matches_oracle;
using testing::expect_split_agrees;
using testing::list_of;
using testing::Lists;
using testing::lists_of;
using testing::message_of;
using testing::random_tensor;
using testing::scattered;
using Case = testing::BlockSelectionCase;
using Sequence = testing::BlockSelectionSequence;

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr BlockSelectionOptions kTiny{.compression_block = 4,
                                      .compression_stride = 2,
                                      .key_block = 8,
                                      .count = 3,
                                      .initial = 1,
                                      .local = 1};

// The oracle.

TEST(BlockSelectionOracle, AgreesWithHandComputedRow) {
  // A query at position 11 with attention 1, 2, 3, 4, 6 (sixteenths) to keys of 4 tokens, 2 apart.
  const Tensor q = ones({1, 1, 1, 1}, DType::f64);
  const Tensor k = from_vector<double>(
      {0, std::log(2.0), std::log(3.0), std::log(4.0), std::log(6.0)}, {1, 5, 1, 1});
  const BlockSelectionOptions options{.compression_block = 4,
                                      .compression_stride = 2,
                                      .key_block = 4,
                                      .count = 2,
                                      .initial = 0,
                                      .local = 1};
  const auto out = reference::select_blocks(q, k, 11, 12, options);
  const std::vector<double> importance = out.importance.to_vector<double>();
  ASSERT_EQ(importance.size(), 3U);
  EXPECT_NEAR(importance[0], (2 * 1 + 1 * 2) / 16.0, 1e-15);
  EXPECT_NEAR(importance[1], (1 * 2 + 2 * 3 + 1 * 4) / 16.0, 1e-15);
  EXPECT_NEAR(importance[2], (1 * 4 + 2 * 6) / 16.0, 1e-15);
  EXPECT_EQ(lists_of(out.selection), (Lists{{1, 2}}));
  EXPECT_NEAR(out.gap.item<double>(), 0.5, 1e-15);
}

TEST(BlockSelectionOracle, SpreadsTheAttentionOfEveryHeadOverTheBlocks) {
  for (const auto& [l, d, block] :
       {std::tuple{4, 2, 8}, {8, 2, 8}, {4, 4, 4}, {2, 2, 6}, {6, 2, 8}}) {
    const Case c{.batch = 2,
                 .queries = 37,
                 .heads = 6,
                 .groups = 2,
                 .options = {.compression_block = l,
                             .compression_stride = d,
                             .key_block = block,
                             .count = 3,
                             .initial = 1,
                             .local = 1}};
    const Sequence x(c);
    const auto out = reference::select_blocks(x.q, x.k, 0, 37, c.options);
    const std::vector<double> values = out.importance.to_vector<double>();
    const int64_t blocks = out.selection.shape().blocks();
    for (int64_t row = 0; row < out.selection.shape().lists(); ++row) {
      double sum = 0;
      for (int64_t j = 0; j < blocks; ++j) sum += values[row * blocks + j];
      const double expected = row % 37 + 1 < l ? 0 : 3.0 * l / d;
      ASSERT_NEAR(sum, expected, 1e-12) << "row " << row << " l " << l;
    }
  }
}

TEST(BlockSelectionOracle, BlocksOfOneCompressedKeyTakeItsAttention) {
  // l = d = l': the importance of a block is what the heads of the group give to its key.
  const Case c{.batch = 2,
               .queries = 41,
               .heads = 6,
               .groups = 2,
               .options = {.compression_block = 4,
                           .compression_stride = 4,
                           .key_block = 4,
                           .count = 3,
                           .initial = 1,
                           .local = 1}};
  const Sequence x(c);
  const std::vector<double> values =
      reference::select_blocks(x.q, x.k, 0, 41, c.options).importance.to_vector<double>();
  const std::vector<double> q = x.q.to_vector<double>(), k = x.k.to_vector<double>();
  for (int64_t b = 0; b < 2; ++b) {
    for (int64_t t = 0; t < 41; ++t) {
      const int64_t seen = (t + 1) / 4;
      for (int64_t g = 0; g < 2; ++g) {
        std::vector<double> expected(11, 0);
        for (int64_t h = 3 * g; h < 3 * g + 3; ++h) {
          std::vector<double> p;
          double sum = 0;
          for (int64_t i = 0; i < seen; ++i) {
            double score = 0;
            for (int64_t e = 0; e < 8; ++e)
              score += q[((b * 41 + t) * 6 + h) * 8 + e] * k[((b * 10 + i) * 2 + g) * 8 + e];
            sum += p.emplace_back(std::exp(score / std::sqrt(8.0)));
          }
          for (int64_t i = 0; i < seen; ++i) expected[i] += p[i] / sum;
        }
        for (int64_t j = 0; j < 11; ++j)
          ASSERT_NEAR(values[((b * 2 + g) * 41 + t) * 11 + j], expected[j], 1e-12) << t;
      }
    }
  }
}

// The kernel against the oracle.

class BlockSelectionShapes : public ::testing::TestWithParam<Case> {};

TEST_P(BlockSelectionShapes, MatchesOracle) {
  Case c = GetParam();
  for (const DType dtype : {DType::f64, DType::f32, DType::bf16, DType::f16}) {
    c.dtype = dtype;
    expect_matches_oracle(c);
  }
}

std::vector<Case> shape_cases() {
  std::vector<Case> cases;
  for (const int64_t t : {1, 3, 4, 15, 16, 17, 29, 31, 64, 129}) {
    cases.push_back({2, t, 4, 2, 8, kTiny});
    cases.push_back({1, t, 3, 1, 5, {4, 4, 4, 4, 1, 2}});
    cases.push_back({1, t, 2, 2, 16, {4, 2, 8, 4, 2, 2, 4}});
  }
  // Keys that cover one stride, many, and every ratio to the block.
  for (const auto& [l, d, block] : {std::tuple{1, 1, 1},
                                    {1, 1, 5},
                                    {5, 1, 5},
                                    {3, 1, 4},
                                    {6, 3, 12},
                                    {16, 16, 16},
                                    {32, 16, 64},
                                    {8, 4, 8},
                                    {12, 4, 12},
                                    {9, 3, 12}}) {
    cases.push_back({1, 300, 4, 1, 12, {l, d, block, 6, 1, 2}});
    cases.push_back({2, 150, 2, 2, 7, {l, d, block, 3, 0, 1, block}});
  }
  // Group sizes on both sides of a vector, one group of many heads, and enough groups to share.
  for (const int64_t heads : {1, 2, 3, 5, 8, 17, 64, 70})
    cases.push_back({1, 100, heads, 1, 9, {2, 2, 2, 5, 1, 1}});
  cases.push_back({5, 90, 8, 8, 4, {4, 2, 4, 4, 1, 1}});
  // Long lists, few and many forced blocks.
  cases.push_back({1, 400, 2, 1, 8, {2, 1, 2, 90, 3, 7}});
  cases.push_back({1, 400, 2, 1, 8, {2, 1, 2, 199, 0, 1}});
  cases.push_back({1, 200, 2, 1, 8, {2, 1, 2, 10, 5, 5}});
  cases.push_back({1, 200, 2, 1, 8, {2, 1, 2, 1, 0, 1}});
  cases.push_back({1, 200, 2, 1, 8, {4, 2, 4, 30, 20, 8, 2}});
  cases.push_back({1, 200, 2, 1, 8, {4, 2, 4, 1000000, 1, 1}});
  // More than one tile of compressed keys.
  cases.push_back({1, 1200, 4, 2, 16, {16, 4, 16, 8, 1, 2, 8}});
  cases.push_back({1, 700, 1, 1, 3, {2, 2, 4, 5, 1, 2}});
  cases.push_back({1, 500, 2, 2, 64, {.scale = 0.3}});
  return cases;
}
INSTANTIATE_TEST_SUITE_P(All, BlockSelectionShapes, ::testing::ValuesIn(shape_cases()));

TEST(BlockSelection, ReadsAnyStrides) {
  const Case c{.batch = 2, .queries = 90, .heads = 4, .groups = 2, .options = kTiny};
  const Sequence x(c);
  const Lists expected = lists_of(x.select());
  EXPECT_EQ(
      lists_of(select_blocks(scattered(x.q), scattered(x.k),
                             x.lse.transpose(1, 2).contiguous().transpose(1, 2), 0, 90, c.options)),
      expected);
  // A last axis that is not dense.
  EXPECT_EQ(lists_of(select_blocks(x.q.transpose(1, 3).contiguous().transpose(1, 3),
                                   x.k.transpose(1, 3).contiguous().transpose(1, 3), x.lse, 0, 90,
                                   c.options)),
            expected);
}

TEST(BlockSelection, DoesNotDependOnTheNumberOfThreads) {
  const int threads = num_threads();
  for (const int64_t groups : {1, 8}) {
    Case c{.queries = 700, .heads = 8, .groups = groups, .dtype = DType::f32};
    c.options = kTiny;
    const Sequence x(c);
    set_num_threads(1);
    const Lists expected = lists_of(x.select());
    for (const int n : {2, 3, 7}) {
      set_num_threads(n);
      EXPECT_EQ(lists_of(x.select()), expected) << n;
    }
    set_num_threads(threads);
  }
}

TEST(BlockSelection, HandlesNoQueriesAndNoBatch) {
  const Tensor k = zeros({1, 3, 1, 4});
  const Selection none = select_blocks(zeros({1, 0, 2, 4}), k, zeros({1, 2, 0}), 7, 20, kTiny);
  EXPECT_EQ(none.total(), 0);
  EXPECT_EQ(none.shape().position, 7);
  EXPECT_EQ(select_blocks(zeros({0, 5, 2, 4}), zeros({0, 3, 1, 4}), zeros({0, 2, 5}), 0, 20, kTiny)
                .total(),
            0);
}

TEST(BlockSelection, DescribesItsLists) {
  Case c{.queries = 20, .heads = 4, .groups = 2, .options = kTiny};
  c.options.query_tile = 4;
  const Sequence x(c);
  const SelectionShape expected{.batch = 1,
                                .groups = 2,
                                .queries = 6,
                                .keys = 20,
                                .position = 12,
                                .query_tile = 4,
                                .key_block = 8};
  EXPECT_EQ(
      select_blocks(x.q.slice(1, 12, 18), x.k, x.lse.slice(2, 12, 18), 12, 20, c.options).shape(),
      expected);
}

// Structure of the lists.

TEST(BlockSelection, ListsHoldTheForcedBlocksAndTheirLength) {
  for (const int64_t tile : {1, 2, 8}) {
    Case c{.queries = 133, .heads = 2, .groups = 2, .options = kTiny};
    c.options.count = 7;
    c.options.initial = 2;
    c.options.local = 3;
    c.options.query_tile = tile;
    const Selection selection = Sequence(c).select();
    for (int64_t g = 0; g < 2; ++g) {
      for (int64_t i = 0; i < selection.shape().tiles(); ++i) {
        const auto own = static_cast<int32_t>(i * tile / 8);
        const std::vector<int32_t> list = list_of(selection, 0, g, i);
        ASSERT_EQ(static_cast<int64_t>(list.size()), std::min<int64_t>(7, own + 1));
        ASSERT_LE(list.back(), own);
        for (const int32_t forced : {0, 1, own, own - 1, own - 2}) {
          if (forced >= 0 && forced <= own) {
            ASSERT_TRUE(std::binary_search(list.begin(), list.end(), forced)) << i;
          }
        }
      }
    }
  }
}

TEST(BlockSelection, TakesEveryBlockWhileThereAreFewEnough) {
  Case c{.queries = 90, .heads = 2, .groups = 1, .options = kTiny};
  c.options.count = 12;
  const Selection selection = Sequence(c).select();
  for (int64_t t = 0; t < 90; ++t) {
    const auto list = selection.list(0, 0, t);
    ASSERT_EQ(static_cast<int64_t>(list.size()), t / 8 + 1);
  }
}

TEST(BlockSelection, EqualKeysGiveTheLowestBlocks) {
  for (const DType dtype : {DType::f64, DType::f32, DType::bf16}) {
    for (const auto& [l, d, block] : {std::tuple{4, 4, 4}, {2, 2, 6}, {1, 1, 4}}) {
      const BlockSelectionOptions o{.compression_block = l,
                                    .compression_stride = d,
                                    .key_block = block,
                                    .count = 5,
                                    .initial = 1,
                                    .local = 2};
      const int64_t tokens = 40 * block;
      const Tensor q = random_tensor({1, tokens, 6, 8}, dtype, 3);
      const Tensor k =
          random_tensor({1, 1, 2, 8}, dtype, 4).expand({1, compressed_keys(tokens, o), 2, 8});
      const Selection selection = Sequence(q, k, o).select();
      for (int64_t t = 5 * block; t < tokens; ++t) {
        const auto own = static_cast<int32_t>(t / block);
        ASSERT_EQ(list_of(selection, 0, t % 2, t), (std::vector<int32_t>{0, 1, 2, own - 1, own}))
            << t << " l " << l;
      }
    }
  }
}

TEST(BlockSelection, OfEqualBlocksTakesTheLower) {
  // Keys of three values, far enough apart that only equal ones tie. The probabilities of equal
  // keys have the same bits.
  Draw draw(11);
  const BlockSelectionOptions o{.compression_block = 2,
                                .compression_stride = 2,
                                .key_block = 2,
                                .count = 9,
                                .initial = 1,
                                .local = 1};
  const int64_t tokens = 500;
  std::vector<double> keys(250);
  for (double& key : keys) key = static_cast<double>(draw(0, 2));
  const Tensor q = ones({1, tokens, 1, 1}, DType::f32);
  const Tensor k = from_vector(keys, {1, 250, 1, 1}).to(DType::f32);
  const Selection selection = Sequence(q, k, o).select();
  for (int64_t t = 30; t < tokens; ++t) {
    const int64_t own = t / 2;
    std::vector<int32_t> rest(static_cast<size_t>(own - 1));
    for (size_t i = 0; i < rest.size(); ++i) rest[i] = static_cast<int32_t>(i) + 1;
    std::stable_sort(rest.begin(), rest.end(),
                     [&](int32_t a, int32_t b) { return keys[a] > keys[b]; });
    std::vector<int32_t> expected(rest.begin(), rest.begin() + 7);
    expected.push_back(0);
    expected.push_back(static_cast<int32_t>(own));
    std::sort(expected.begin(), expected.end());
    ASSERT_EQ(list_of(selection, 0, 0, t), expected) << t;
  }
}

TEST(BlockSelection, RowsWithoutCompressedKeysTakeTheLowestBlocks) {
  // lse = +inf: no key was seen.
  const Case c{.queries = 120, .heads = 2, .groups = 1, .options = kTiny, .dtype = DType::f32};
  const Sequence x(c);
  const Selection selection =
      select_blocks(x.q, x.k, full(x.lse.shape(), kInfinity), 0, 120, c.options);
  const Selection keyless = select_blocks(x.q, x.k.slice(1, 0, 0), x.lse, 0, 120, c.options);
  for (int64_t t = 24; t < 120; ++t) {
    const std::vector<int32_t> expected{0, 1, static_cast<int32_t>(t / 8)};
    ASSERT_EQ(list_of(selection, 0, 0, t), expected) << t;
    ASSERT_EQ(list_of(keyless, 0, 0, t), expected) << t;
  }
}

TEST(BlockSelection, BrokenScoresStillGiveLists) {
  const Case c{.queries = 120, .heads = 2, .groups = 1, .options = kTiny, .dtype = DType::f32};
  Sequence x(c);
  for (const double value : {std::nan(""), kInfinity, -kInfinity, 1e30}) {
    Tensor k = x.k.clone();
    k.slice(1, 5, 9).fill_(value);
    for (const double lse : {std::nan(""), 0.0, -kInfinity, -1e30}) {
      // The constructor of Selection checks the lists.
      const Selection selection =
          select_blocks(x.q, k, full(x.lse.shape(), lse), 0, 120, c.options);
      for (int64_t t = 0; t < 120; ++t) {
        const auto list = selection.list(0, 0, t);
        ASSERT_EQ(static_cast<int64_t>(list.size()), std::min<int64_t>(3, t / 8 + 1));
        ASSERT_EQ(list.front(), 0);
        ASSERT_EQ(list.back(), t / 8);
      }
    }
  }
}

TEST(BlockSelection, DoesNotChangeWithAConstantAddedToTheScoresOfARow) {
  Case c{.batch = 2, .queries = 160, .heads = 4, .groups = 2, .options = kTiny};
  c.options.scale = 0.5;
  const Sequence x(c);
  // A channel in which all keys are 1 and the queries differ.
  Tensor q = zeros({2, 160, 4, 9}, DType::f64), k = ones({2, x.k.size(1), 2, 9}, DType::f64);
  q.slice(3, 0, 8).copy_(x.q);
  q.slice(3, 8, 9).copy_(random_tensor({2, 160, 4, 1}, DType::f64, 9, 3));
  k.slice(3, 0, 8).copy_(x.k);
  EXPECT_EQ(lists_of(Sequence(q, k, c.options).select()), lists_of(x.select()));
}

TEST(BlockSelection, HeadsOfAGroupCountAlike) {
  const Case c{.queries = 160, .heads = 6, .groups = 2, .options = kTiny};
  const Sequence x(c);
  Tensor q = x.q.clone();
  for (const auto& [to, from] : {std::pair{0, 2}, {1, 0}, {2, 1}, {3, 4}, {4, 3}})
    q.slice(2, to, to + 1).copy_(x.q.slice(2, from, from + 1));
  EXPECT_EQ(lists_of(Sequence(q, x.k, c.options).select()), lists_of(x.select()));
}

// Parts of a sequence.

TEST(BlockSelection, LaterRowsDoNotChangeEarlierLists) {
  Case c{.queries = 131, .heads = 2, .groups = 1, .options = kTiny, .dtype = DType::f32};
  for (const int64_t tile : {1, 4}) {
    c.options.query_tile = tile;
    const Sequence x(c);
    const Lists all = lists_of(x.select());
    for (int64_t end = 1; end <= 131; ++end) {
      const Lists some = lists_of(x.select(0, end));
      ASSERT_EQ(some, Lists(all.begin(), all.begin() + static_cast<int64_t>(some.size()))) << end;
    }
    // More compressed keys and tokens than the rows have seen.
    const Lists some =
        lists_of(select_blocks(x.q.slice(1, 0, 70), x.k, x.lse.slice(2, 0, 70), 0, 131, c.options));
    ASSERT_EQ(some, Lists(all.begin(), all.begin() + static_cast<int64_t>(some.size())));
  }
}

TEST(BlockSelection, EverySplitIntoCallsGivesTheSameLists) {
  for (const DType dtype : {DType::f64, DType::f32, DType::bf16}) {
    Case c{.batch = 2, .queries = 75, .heads = 6, .groups = 2, .options = kTiny, .dtype = dtype};
    for (const int64_t tile : {1, 4, 8}) {
      c.options.query_tile = tile;
      const Sequence x(c);
      for (int64_t middle = 1; middle < 75; ++middle) expect_split_agrees(x, {middle, 75});
      std::vector<int64_t> steps;
      for (int64_t t = 1; t <= 75; ++t) steps.push_back(t);
      expect_split_agrees(x, steps);
    }
  }
}

TEST(BlockSelection, DecodeOverManyKeysGivesTheListsOfAPrefill) {
  // Many steps of one query against tiles of many: sums must not depend on their company.
  Case c{.queries = 2100, .heads = 10, .groups = 2, .dim = 24, .dtype = DType::f32};
  c.options = {4, 2, 8, 7, 1, 2};
  const Sequence x(c);
  const Selection all = x.select();
  for (int64_t t = 1500; t < 2100; t += 7) {
    const Selection step = x.select(t, t + 1);
    for (int64_t g = 0; g < 2; ++g) ASSERT_EQ(list_of(step, 0, g, 0), list_of(all, 0, g, t)) << t;
  }
}

// Bad input.

TEST(BlockSelectionErrors, OptionsNameTheirRule) {
  const auto text = [](auto change) {
    BlockSelectionOptions o = kTiny;
    change(o);
    return message_of<ConfigError>([&] { validate(o); });
  };
  using O = BlockSelectionOptions;
  const auto expect = [](const std::string& message, const std::string& part) {
    EXPECT_NE(message.find(part), std::string::npos) << message;
  };
  EXPECT_NO_THROW(validate(kTiny));
  EXPECT_NO_THROW(validate({}));
  expect(text([](O& o) { o.compression_block = 0; }),
         "compression_block must be at least 1, got 0");
  expect(text([](O& o) { o.compression_stride = -2; }),
         "compression_stride must be at least 1, got -2");
  expect(text([](O& o) { o.key_block = 0; }), "key_block must be at least 1, got 0");
  expect(text([](O& o) { o.count = 0; }), "count must be at least 1, got 0");
  expect(text([](O& o) { o.initial = -1; }), "initial must be at least 0, got -1");
  expect(text([](O& o) { o.local = 0; }), "local must be at least 1, got 0");
  expect(text([](O& o) { o.query_tile = 0; }), "query_tile must be at least 1, got 0");
  expect(text([](O& o) { o.compression_stride = 3; }),
         "compression_stride must divide compression_block, got 3 and 4");
  expect(text([](O& o) { o.key_block = 7; }),
         "compression_stride must divide key_block, got 2 and 7");
  expect(text([](O& o) { o.compression_block = 10; }),
         "compression_block must be at most key_block, got 10 and 8");
  expect(text([](O& o) { o.query_tile = 3; }), "query_tile must divide key_block, got 3 and 8");
  expect(text([](O& o) { o.query_tile = 16; }), "query_tile must divide key_block, got 16 and 8");
  expect(text([](O& o) { o.local = 3; }),
         "count must be at least initial + local, got 3 for 1 + 3");
  expect(text([](O& o) { o.initial = std::numeric_limits<int64_t>::max(); }),
         "count must be at least initial + local");
  expect(text([](O& o) { o.scale = 0; }), "scale must be finite and above 0, got 0");
  expect(text([](O& o) { o.scale = kInfinity; }), "scale must be finite and above 0, got inf");
  // select_blocks() itself checks them.
  BlockSelectionOptions bad = kTiny;
  bad.query_tile = 3;
  EXPECT_THROW(
      select_blocks(zeros({1, 5, 2, 4}), zeros({1, 3, 1, 4}), zeros({1, 2, 5}), 0, 20, bad),
      ConfigError);
}

TEST(BlockSelectionErrors, InputsNameWhatCame) {
  const Tensor q = zeros({1, 5, 4, 8}), k = zeros({1, 3, 2, 8}), lse = zeros({1, 4, 5});
  const auto expect = [](const std::string& message, const std::string& part) {
    EXPECT_NE(message.find(part), std::string::npos) << message;
  };
  const auto shape_text = [](const Tensor& a, const Tensor& b, const Tensor& c) {
    return message_of<ShapeError>([&] { select_blocks(a, b, c, 0, 20, kTiny); });
  };
  expect(shape_text(Tensor(), k, lse), "q must be [B, T, H, D], got undefined");
  expect(shape_text(zeros({5, 4, 8}), k, lse), "got [5, 4, 8]");
  expect(shape_text(q, zeros({3, 2, 8}), lse), "k must be [B, Nc, G, D]");
  expect(shape_text(q, zeros({2, 3, 2, 8}), lse), "batch sizes differ");
  expect(shape_text(q, zeros({1, 3, 2, 6}), lse), "one head dim");
  expect(shape_text(q, zeros({1, 3, 3, 8}), lse), "multiple of the 3 key heads");
  expect(shape_text(q, k, zeros({1, 5, 4})), "lse must be [1, 4, 5], got [1, 5, 4]");
  expect(shape_text(q, k, Tensor()), "lse must be [1, 4, 5], got undefined");
  const auto type_text = [](const Tensor& a, const Tensor& b, const Tensor& c) {
    return message_of<DTypeError>([&] { select_blocks(a, b, c, 0, 20, kTiny); });
  };
  expect(type_text(q.to(DType::i32), k.to(DType::i32), lse), "takes f64, f32, bf16 or f16");
  expect(type_text(q, k.to(DType::bf16), lse), "q and k must have one type");
  expect(type_text(q, k, lse.to(DType::f64)), "lse must be f32");
  expect(type_text(q.to(DType::f64), k.to(DType::f64), lse), "lse must be f64");
  const auto config_text = [&](int64_t position, int64_t keys) {
    return message_of<ConfigError>([&] { select_blocks(q, k, lse, position, keys, kTiny); });
  };
  expect(config_text(-1, 20), "the 5 queries from position -1 on must be among the 20 keys");
  expect(config_text(16, 20), "the 5 queries from position 16 on must be among the 20 keys");
  expect(config_text(0, 4), "among the 4 keys");
}

TEST(BlockSelectionErrors, InheritedListsMustBeThoseOfTheCallBefore) {
  BlockSelectionOptions o = kTiny;
  o.query_tile = 4;
  const Tensor q = zeros({1, 5, 4, 8}), k = zeros({1, 3, 2, 8}), lse = zeros({1, 4, 5});
  const SelectionShape good{.batch = 1,
                            .groups = 2,
                            .queries = 2,
                            .keys = 6,
                            .position = 4,
                            .query_tile = 4,
                            .key_block = 8};
  const auto call = [&](auto change) {
    SelectionShape shape = good;
    change(shape);
    const Selection from =
        Selection::from_lists(shape, Lists(static_cast<size_t>(shape.lists()), {0}));
    return select_blocks(q, k, lse, 6, 20, o, &from);
  };
  using S = SelectionShape;
  EXPECT_EQ(lists_of(call([](S&) {})), (Lists{{0}, {0, 1}, {0}, {0, 1}}));
  const auto expect = [](const std::string& message, const std::string& part) {
    EXPECT_NE(message.find(part), std::string::npos) << message;
  };
  expect(message_of<ConfigError>([&] { select_blocks(q, k, lse, 6, 20, o); }),
         "position 6 is inside a run of 4 queries");
  expect(message_of<ShapeError>([&] { call([](S& s) { s.groups = 1; }); }),
         "batch 1 and 1 groups, must be of batch 1 and 2 groups");
  expect(message_of<ShapeError>([&] { call([](S& s) { s.batch = 2; }); }), "batch 2");
  expect(message_of<ConfigError>([&] { call([](S& s) { s.query_tile = 2; }); }),
         "query_tile 2 and key_block 8, must have 4 and 8");
  expect(message_of<ConfigError>([&] { call([](S& s) { s.key_block = 4; }); }), "key_block 4");
  expect(message_of<ConfigError>([&] { call([](S& s) { s.position = 3; }); }),
         "must end at position 6");
  expect(message_of<ConfigError>([&] { call([](S& s) { s.keys = 25; }); }),
         "at most 3 blocks, got the 2 queries from 4 on and 4 blocks");
}

}  // namespace
}  // namespace weft::attention
