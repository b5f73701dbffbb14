#include "weft/attention/kernels/selected_attention.h"

#include <algorithm>
#include <limits>
#include <set>

#include "weft/attention/functions.h"
#include "weft/autograd/grad_check.h"
#include "weft/tensor/parallel.h"

#include "attention_test_data.h"
#include "reference/attention_reference.h"

namespace weft::attention {
namespace {

using testing::largest_difference;
using testing::message_of;
using testing::random_tensor;
using testing::root_mean_square;
using testing::same_bits;
using testing::scattered;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct Case {
  int64_t batch, queries, keys, heads, kv_heads, groups, dim, value_dim;
  int64_t query_tile = 1, key_block = 16;
  int64_t count = 4;      // blocks of a list, at most
  int64_t position = -1;  // keys - queries unless set

  SelectionShape shape() const {
    return {.batch = batch,
            .groups = groups,
            .queries = queries,
            .keys = keys,
            .position = position >= 0 ? position : std::max<int64_t>(keys - queries, 0),
            .query_tile = query_tile,
            .key_block = key_block};
  }
};

void PrintTo(const Case& c, std::ostream* out) {
  *out << "B" << c.batch << " T" << c.queries << " S" << c.keys << " H" << c.heads << " Hk"
       << c.kv_heads << " groups" << c.groups << " D" << c.dim << " Dv" << c.value_dim << " r"
       << c.query_tile << " block" << c.key_block << " n" << c.count << " position"
       << c.shape().position;
}

using Lists = std::vector<std::vector<int32_t>>;

/// Up to c.count random blocks a list, some lists empty, some with blocks that lie in the future.
Selection random_selection(const Case& c, uint64_t seed) {
  std::mt19937_64 engine(seed);
  const SelectionShape shape = c.shape();
  Lists lists(static_cast<size_t>(shape.lists()));
  for (auto& list : lists) {
    std::set<int32_t> blocks;
    const int64_t count = shape.blocks() == 0
                              ? 0
                              : static_cast<int64_t>(engine() % static_cast<uint64_t>(c.count + 1));
    for (int64_t i = 0; i < count; ++i)
      blocks.insert(static_cast<int32_t>(engine() % static_cast<uint64_t>(shape.blocks())));
    list.assign(blocks.begin(), blocks.end());
  }
  return Selection::from_lists(shape, lists);
}

/// Lists made by choose(tile, block).
template <class Choose>
Selection chosen_selection(const SelectionShape& shape, Choose&& choose) {
  Lists lists;
  for (int64_t i = 0; i < shape.batch * shape.groups; ++i) {
    for (int64_t tile = 0; tile < shape.tiles(); ++tile) {
      lists.emplace_back();
      for (int32_t block = 0; block < shape.blocks(); ++block) {
        if (choose(tile, block)) lists.back().push_back(block);
      }
    }
  }
  return Selection::from_lists(shape, lists);
}

struct Data {
  explicit Data(const Case& c, DType dtype, uint64_t seed = 1)
      : q(random_tensor({c.batch, c.queries, c.heads, c.dim}, dtype, seed)),
        k(random_tensor({c.batch, c.keys, c.kv_heads, c.dim}, dtype, seed + 1)),
        v(random_tensor({c.batch, c.keys, c.kv_heads, c.value_dim}, dtype, seed + 2)),
        dout(random_tensor({c.batch, c.queries, c.heads, c.value_dim}, dtype, seed + 3)) {}
  Tensor q, k, v, dout;
};

struct Results {
  Results(const Data& x, const Selection& selection, const SelectedAttentionOptions& options = {})
      : out(selected_attention_forward(x.q, x.k, x.v, selection, options)),
        grads(selected_attention_backward(x.dout, x.q, x.k, x.v, out.o, out.lse, selection,
                                          options)) {}
  std::vector<Tensor> all() const { return {out.o, out.lse, grads.dq, grads.dk, grads.dv}; }
  FlashAttentionOutput out;
  FlashAttentionGradients grads;
};

constexpr const char* kNames[] = {"o", "lse", "dq", "dk", "dv"};

/// Results of the kernel against the oracle, within `tolerance` of elements of order one.
void expect_matches_oracle(const Case& c, DType dtype, double tolerance, uint64_t seed = 1) {
  const Data x(c, dtype, seed);
  const Selection selection = random_selection(c, seed);
  const Results run(x, selection);
  const auto out = reference::selected_attention_forward(x.q, x.k, x.v, selection);
  const auto grads = reference::selected_attention_backward(x.dout, x.q, x.k, x.v, selection);
  const std::vector<Tensor> expected{out.o, out.lse, grads.dq, grads.dk, grads.dv};
  for (size_t i = 0; i < expected.size(); ++i) {
    // Rounding grows with the elements; statistics are as exact as they are large.
    const double size = i == 1 ? 1 : std::max(1.0, testing::largest_magnitude(expected[i]));
    EXPECT_LE(largest_difference(run.all()[i], expected[i]), tolerance * size)
        << kNames[i] << " of " << ::testing::PrintToString(c) << " " << to_string(dtype) << " seed "
        << seed;
  }
}

TEST(SelectedAttentionOracle, SeesListedBlocksUpToTheQuery) {
  // Keys 0..4 in blocks of 2; the row at position 3 lists blocks 0 and 1, and so sees 0 to 3.
  const SelectionShape shape{.queries = 1, .keys = 5, .position = 3, .key_block = 2};
  const Tensor q = ones({1, 1, 1, 1}, DType::f64), k = zeros({1, 5, 1, 1}, DType::f64);
  const Tensor v = from_vector<double>({1, 2, 4, 8, 16}, {1, 5, 1, 1});
  const auto value = [&](const std::vector<int32_t>& list) {
    return reference::selected_attention_forward(q, k, v, Selection::from_lists(shape, {list}))
        .o.item<double>();
  };
  EXPECT_DOUBLE_EQ(value({0, 1}), 15.0 / 4);
  EXPECT_DOUBLE_EQ(value({1}), 6);
  EXPECT_DOUBLE_EQ(value({0, 2}), 1.5);
  EXPECT_DOUBLE_EQ(value({2}), 0);
}

class SelectedAttentionShapes : public ::testing::TestWithParam<Case> {};

TEST_P(SelectedAttentionShapes, MatchesOracleInF64) {
  expect_matches_oracle(GetParam(), DType::f64, 1e-12);
}
TEST_P(SelectedAttentionShapes, MatchesOracleInF32) {
  expect_matches_oracle(GetParam(), DType::f32, 1e-5);
}
TEST_P(SelectedAttentionShapes, MatchesOracleInHalfTypes) {
  expect_matches_oracle(GetParam(), DType::bf16, 2e-2);
  expect_matches_oracle(GetParam(), DType::f16, 5e-3);
}

std::vector<Case> shape_cases() {
  std::vector<Case> cases;
  for (const int64_t t : {1, 3, 4, 15, 16, 17, 29, 31, 64, 65, 129})
    cases.push_back({2, t, t, 4, 2, 2, 8, 6, 1, 8, 3});
  for (const int64_t block : {1, 3, 5, 8, 16, 20, 24, 32, 33, 48, 64, 100}) {
    for (const int64_t tile : {1, 2, 4, 5, 16})
      cases.push_back({1, 70, 70, 4, 2, 2, 16, 24, tile, block, 6});
  }
  for (const int64_t heads : {1, 2, 3, 4, 5, 6, 7, 8, 12, 16}) {
    cases.push_back({1, 40, 40, heads, 1, 1, 20, 12, 1, 16, 3});
    cases.push_back({1, 40, 40, heads, heads, 1, 12, 20, 4, 16, 3});
  }
  for (const int64_t dim : {1, 7, 15, 16, 17, 63, 64, 65, 96, 128, 200}) {
    cases.push_back({1, 33, 50, 4, 2, 1, dim, 64, 1, 16, 5});
    cases.push_back({1, 33, 50, 4, 2, 2, 64, dim, 4, 16, 5});
  }
  // Positions: within a run of queries, before the keys end, past them.
  for (const int64_t position : {0, 1, 5, 21, 60, 90})
    cases.push_back({2, 30, 61, 4, 2, 2, 16, 16, 4, 16, 4, position});
  cases.push_back({1, 300, 300, 8, 2, 2, 64, 64, 1, 16, 8});
  cases.push_back({1, 300, 300, 8, 8, 2, 96, 64, 4, 16, 8});
  cases.push_back({1, 300, 300, 8, 2, 2, 64, 64, 1, 64, 8});
  cases.push_back({2, 5, 1500, 6, 2, 1, 64, 32, 4, 16, 90});
  // Few rows: blocks longer than a chunk of keys, and lists of several chunks.
  for (const int64_t queries : {1, 3}) {
    cases.push_back({2, queries, 2000, 4, 2, 2, 32, 16, 1, 700, 3});
    cases.push_back({1, queries, 2000, 3, 3, 3, 20, 36, 4, 20, 80});
    cases.push_back({1, queries, 2000, 8, 1, 1, 16, 16, 1, 64, 25});
  }
  cases.push_back({1, 40, 0, 4, 2, 2, 8, 8, 1, 16, 2});
  return cases;
}
INSTANTIATE_TEST_SUITE_P(All, SelectedAttentionShapes, ::testing::ValuesIn(shape_cases()));

void expect_random_shapes_match(int count, uint64_t seed) {
  std::mt19937_64 engine(seed);
  const auto draw = [&](int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(engine);
  };
  for (int i = 0; i < count; ++i) {
    Case c{};
    c.batch = draw(1, 2);
    c.keys = draw(1, 150);
    c.queries = draw(1, 90);
    c.groups = draw(1, 3);
    c.kv_heads = c.groups * draw(1, 2);
    c.heads = c.kv_heads * draw(1, 5);
    c.dim = draw(1, 70);
    c.value_dim = draw(1, 70);
    c.query_tile = draw(1, 16);
    c.key_block = draw(0, 1) == 0 ? 16 : draw(1, 70);
    c.count = draw(0, 12);
    c.position = draw(0, 1) == 0 ? -1 : draw(0, 170);
    expect_matches_oracle(c, DType::f32, 2e-5, seed + static_cast<uint64_t>(i));
    expect_matches_oracle(c, DType::f64, 1e-12, seed + static_cast<uint64_t>(i));
    if (::testing::Test::HasFailure()) return;
  }
}

TEST(SelectedAttention, RandomShapesMatchOracle) {
  expect_random_shapes_match(40, 5);
}
TEST(SlowSelectedAttention, RandomShapesMatchOracle) {
  expect_random_shapes_match(300, 1000);
}

TEST(SelectedAttention, AllBlocksEqualFullAttention) {
  for (const Case& c :
       {Case{2, 130, 130, 4, 2, 2, 16, 24, 1, 16}, Case{1, 90, 90, 8, 8, 2, 40, 32, 4, 16},
        Case{1, 50, 130, 4, 2, 1, 16, 16, 3, 7}}) {
    for (const DType dtype : {DType::f64, DType::f32}) {
      const Data x(c, dtype);
      const Results run(x, chosen_selection(c.shape(), [](int64_t, int64_t) { return true; }));
      const auto out = flash_attention_forward(x.q, x.k, x.v);
      const auto grads = flash_attention_backward(x.dout, x.q, x.k, x.v, out.o, out.lse);
      const std::vector<Tensor> expected{out.o, out.lse, grads.dq, grads.dk, grads.dv};
      for (size_t i = 0; i < expected.size(); ++i)
        EXPECT_LE(
            largest_difference(run.all()[i], expected[i]),
            (dtype == DType::f64 ? 1e-12 : 1e-5) * std::max(1.0, root_mean_square(expected[i])))
            << kNames[i];
    }
  }
}

TEST(SelectedAttention, StaticPatternEqualsItsMask) {
  // The first block and the two up to the query's own: a fixed pattern.
  const Case c{1, 200, 200, 4, 2, 2, 16, 16, 1, 16};
  const Data x(c, DType::f64);
  const Selection selection = chosen_selection(c.shape(), [](int64_t tile, int64_t block) {
    return block == 0 || block == tile / 16 || block == tile / 16 - 1;
  });
  const reference::Visibility visible = [](int64_t, int64_t t, int64_t, int64_t s) {
    return s <= t && (s < 16 || s / 16 == t / 16 || s / 16 == t / 16 - 1);
  };
  const Results run(x, selection);
  const auto out = reference::attention_forward(x.q, x.k, x.v, 0.25, visible);
  const auto grads = reference::attention_backward(x.dout, x.q, x.k, x.v, 0.25, visible);
  const std::vector<Tensor> expected{out.o, out.lse, grads.dq, grads.dk, grads.dv};
  for (size_t i = 0; i < expected.size(); ++i)
    EXPECT_LE(largest_difference(run.all()[i], expected[i]), 1e-12) << kNames[i];
}

TEST(SelectedAttention, TileOfEqualListsGivesTheSame) {
  // A list for a run of 4 queries, or the same list for each of them.
  Case c{2, 61, 90, 4, 2, 2, 16, 16, 4, 16, 5};
  c.position = 30;
  const Selection shared = random_selection(c, 3);
  SelectionShape single = c.shape();
  single.query_tile = 1;
  Lists lists;
  for (int64_t b = 0; b < c.batch; ++b) {
    for (int64_t g = 0; g < c.groups; ++g) {
      for (int64_t t = 0; t < c.queries; ++t) {
        const auto list = shared.list(b, g, c.shape().tile_of(t));
        lists.emplace_back(list.begin(), list.end());
      }
    }
  }
  const Data x(c, DType::f64);
  const Results a(x, shared), b(x, Selection::from_lists(single, lists));
  for (size_t i = 0; i < a.all().size(); ++i)
    EXPECT_LE(largest_difference(a.all()[i], b.all()[i]), 1e-12) << kNames[i];
}

TEST(SelectedAttention, EmptyListsGiveZeroAndNoGradient) {
  const Case c{2, 70, 70, 4, 2, 2, 16, 16, 1, 16};
  const Data x(c, DType::f32);
  const Selection selection = chosen_selection(
      c.shape(), [](int64_t tile, int64_t block) { return tile == 40 && block == 1; });
  const Results run(x, selection);
  const std::vector<double> lse = run.out.lse.to_vector<double>();
  for (size_t i = 0; i < lse.size(); ++i) {
    if (i % 70 == 40) {
      EXPECT_TRUE(std::isfinite(lse[i]));
    } else {
      EXPECT_EQ(lse[i], kInfinity);
    }
  }
  for (const Tensor& rows : {run.out.o, run.grads.dq}) {
    EXPECT_EQ(root_mean_square(rows.slice(1, 0, 40)), 0);
    EXPECT_GT(root_mean_square(rows.slice(1, 40, 41)), 0);
    EXPECT_EQ(root_mean_square(rows.slice(1, 41, 70)), 0);
  }
  for (const Tensor& rows : {run.grads.dk, run.grads.dv}) {
    EXPECT_EQ(root_mean_square(rows.slice(1, 0, 16)), 0);
    EXPECT_GT(root_mean_square(rows.slice(1, 16, 32)), 0);
    EXPECT_EQ(root_mean_square(rows.slice(1, 32, 70)), 0);
  }
}

TEST(SelectedAttention, EmptyBatchAndNoQueries) {
  for (const Case& c : {Case{0, 5, 5, 2, 1, 1, 8, 8}, Case{2, 0, 70, 2, 1, 1, 8, 8}}) {
    const Data x(c, DType::f32);
    const Results run(x, random_selection(c, 1));
    EXPECT_EQ(run.out.o.shape(), x.q.shape());
    EXPECT_EQ(run.grads.dk.shape(), x.k.shape());
    EXPECT_EQ(root_mean_square(run.grads.dk), 0);
    EXPECT_EQ(root_mean_square(run.grads.dv), 0);
  }
}

TEST(SelectedAttention, FutureDoesNotReachEarlierRows) {
  const Case c{1, 100, 100, 4, 2, 2, 16, 16, 4, 16};
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const Data x(c, dtype);
    const Selection selection = chosen_selection(c.shape(), [](int64_t, int64_t) { return true; });
    const Results before(x, selection);
    for (const int64_t t : {1, 15, 16, 17, 18, 63, 64, 99}) {
      Data y = x;
      for (Tensor* tensor : {&y.q, &y.k, &y.v}) {
        *tensor = tensor->clone();
        tensor->slice(1, t, 100).fill_(2);
      }
      const Tensor after = selected_attention_forward(y.q, y.k, y.v, selection).o;
      EXPECT_TRUE(same_bits(before.out.o.slice(1, 0, t), after.slice(1, 0, t))) << t;
      // Not even what is not a number, from the next run of queries on.
      y.k = x.k.clone();
      y.v = x.v.clone();
      y.k.slice(1, (t + 3) / 4 * 4, 100).fill_(std::nan(""));
      y.v.slice(1, (t + 3) / 4 * 4, 100).fill_(std::nan(""));
      const Tensor poisoned = selected_attention_forward(y.q, y.k, y.v, selection).o;
      EXPECT_TRUE(same_bits(before.out.o.slice(1, 0, t), poisoned.slice(1, 0, t))) << t;
      Data z = x;
      z.dout = x.dout.clone();
      z.dout.slice(1, t, 100).zero_();
      const Results run(z, selection);
      EXPECT_EQ(root_mean_square(run.grads.dk.slice(1, t, 100)), 0) << t;
      EXPECT_EQ(root_mean_square(run.grads.dv.slice(1, t, 100)), 0) << t;
    }
  }
}

TEST(SelectedAttention, ThreadCountDoesNotChangeBits) {
  const int threads = num_threads();
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const Case& c : {Case{1, 700, 700, 4, 2, 2, 32, 32, 1, 16, 8},
                          Case{2, 190, 900, 6, 6, 2, 24, 16, 4, 16, 20},
                          Case{1, 1, 5000, 4, 2, 2, 32, 32, 1, 16, 200},
                          Case{1, 1500, 1500, 2, 1, 1, 16, 16, 2, 5, 30}}) {
      const Data x(c, dtype);
      const Selection selection = random_selection(c, 9);
      set_num_threads(1);
      const Results one(x, selection);
      for (const int count : {1, 2, 3, 7}) {
        set_num_threads(count);
        const Results several(x, selection);
        for (size_t i = 0; i < one.all().size(); ++i)
          EXPECT_TRUE(same_bits(one.all()[i], several.all()[i]))
              << kNames[i] << ", threads " << count << ", " << ::testing::PrintToString(c);
      }
      set_num_threads(threads);
    }
  }
}

TEST(SelectedAttention, StridedInputsGiveTheSameBits) {
  for (const DType dtype : {DType::f32, DType::bf16, DType::f64}) {
    for (const Case& c :
         {Case{2, 50, 70, 4, 2, 2, 20, 12, 1, 16}, Case{2, 50, 70, 4, 4, 2, 64, 64, 4, 16},
          Case{1, 1, 70, 4, 2, 2, 16, 16, 1, 16}}) {
      const Data x(c, dtype);
      const Selection selection = random_selection(c, 2);
      const Results dense(x, selection);
      Data y = x;
      y.q = scattered(x.q);
      y.k = scattered(x.k);
      y.v = scattered(x.v);
      y.dout = scattered(x.dout);
      const Results strided(y, selection);
      for (size_t i = 0; i < dense.all().size(); ++i)
        EXPECT_TRUE(same_bits(dense.all()[i], strided.all()[i])) << kNames[i] << to_string(dtype);
      y.q = x.q.transpose(1, 3).contiguous().transpose(1, 3);
      EXPECT_TRUE(same_bits(dense.out.o, selected_attention_forward(y.q, x.k, x.v, selection).o));
    }
  }
}

TEST(SelectedAttention, HugeScoresStayFinite) {
  for (const int64_t queries : {1, 100}) {
    for (const DType dtype : {DType::f32, DType::bf16, DType::f64}) {
      const Case c{1, queries, 100, 2, 1, 1, 16, 16, 1, 16};
      Data x(c, dtype);
      x.q = full(x.q.shape(), 25, dtype);
      std::vector<double> keys;
      for (int64_t s = 0; s < 100; ++s) keys.insert(keys.end(), 16, s % 3 == 0 ? 25.0 : -25.0);
      x.k = from_vector(keys, {1, 100, 1, 16}).to(dtype);
      const Selection selection = chosen_selection(
          c.shape(), [](int64_t tile, int64_t block) { return (tile + block) % 2 == 0; });
      const SelectedAttentionOptions options{.scale = 1.0};
      const Results run(x, selection, options);
      for (const Tensor& result : {run.out.o, run.grads.dq, run.grads.dk, run.grads.dv}) {
        for (const double value : result.to_vector<double>()) ASSERT_TRUE(std::isfinite(value));
      }
      const auto expected =
          reference::selected_attention_forward(x.q, x.k, x.v, selection, options);
      EXPECT_LE(largest_difference(run.out.o, expected.o), dtype == DType::bf16 ? 2e-2 : 1e-5);
      EXPECT_LE(largest_difference(run.out.lse, expected.lse), 1e-2);
    }
  }
}

TEST(SelectedAttention, OneHugeKeyTakesTheWholeRow) {
  const Case c{1, 90, 90, 1, 1, 1, 16, 16, 1, 8};
  Data x(c, DType::f32);
  x.q.fill_(1);
  x.k.select(1, 40).fill_(1000);
  const Tensor o =
      selected_attention_forward(x.q, x.k, x.v,
                                 chosen_selection(c.shape(), [](int64_t, int64_t) { return true; }),
                                 {.scale = 1.0})
          .o;
  for (int64_t t = 40; t < 90; ++t)
    EXPECT_LE(largest_difference(o.select(1, t), x.v.select(1, 40)), 1e-6) << t;
}

TEST(SelectedAttention, RefusesWhatDoesNotFit) {
  const Tensor q = zeros({2, 5, 4, 8}), k = zeros({2, 5, 2, 8}), v = zeros({2, 5, 2, 6});
  const SelectionShape shape{.batch = 2, .groups = 2, .queries = 5, .keys = 5};
  const auto with = [&](SelectionShape other) {
    const Selection selection = chosen_selection(other, [](int64_t, int64_t) { return true; });
    return message_of<ShapeError>([&] { selected_attention_forward(q, k, v, selection); });
  };
  SelectionShape other = shape;
  other.queries = 4;
  EXPECT_EQ(
      with(other),
      "selected_attention: the selection is for batch 2, 4 queries and 5 keys, got q and k of "
      "batch 2, 5 queries and 5 keys");
  other = shape;
  other.keys = 6;
  EXPECT_NE(with(other).find("6 keys"), std::string::npos);
  other = shape;
  other.groups = 4;
  EXPECT_EQ(with(other),
            "selected_attention: the 4 groups of the selection must divide the 2 key heads");
  const Selection selection = chosen_selection(shape, [](int64_t, int64_t) { return true; });
  EXPECT_NE(message_of<ShapeError>([&] {
              selected_attention_forward(q, zeros({2, 5, 3, 8}), zeros({2, 5, 3, 6}), selection);
            }).find("multiple of the 3"),
            std::string::npos);
  EXPECT_NE(message_of<ConfigError>([&] {
              selected_attention_forward(q, k, v, selection, {.scale = -1.0});
            }).find("scale"),
            std::string::npos);
  const auto out = selected_attention_forward(q, k, v, selection);
  EXPECT_NE(message_of<ShapeError>([&] {
              selected_attention_backward(q, q, k, v, out.o, out.lse, selection);
            }).find("selected_attention_backward: dout must be [2, 5, 4, 6]"),
            std::string::npos);
}

TEST(SelectedAttentionFunction, GradientsAgreeWithFiniteDifferences) {
  const Case cases[] = {{2, 9, 9, 2, 1, 1, 4, 3, 1, 4, 2},
                        {1, 17, 30, 4, 2, 1, 6, 4, 4, 8, 3},
                        {1, 12, 12, 4, 4, 2, 5, 7, 4, 4, 3}};
  for (const Case& c : cases) {
    const Selection selection = random_selection(c, 4);
    const auto leaf = [](const Shape& shape, uint64_t seed) {
      return Variable(random_tensor(shape, DType::f64, seed), true);
    };
    const auto result = autograd::grad_check(
        [&](const std::vector<Variable>& x) {
          return selected_attention(x[0], x[1], x[2], selection, {.scale = 0.4});
        },
        {leaf({c.batch, c.queries, c.heads, c.dim}, 1),
         leaf({c.batch, c.keys, c.kv_heads, c.dim}, 2),
         leaf({c.batch, c.keys, c.kv_heads, c.value_dim}, 3)},
        {.max_elements = 40});
    EXPECT_TRUE(result) << ::testing::PrintToString(c) << result.message;
  }
}

TEST(FlashAttentionWithLse, GivesTheSameAndItsStatistics) {
  const Variable q(random_tensor({1, 7, 2, 4}, DType::f64, 1), true),
      k(random_tensor({1, 7, 1, 4}, DType::f64, 2), true),
      v(random_tensor({1, 7, 1, 4}, DType::f64, 3), true);
  const AttentionWithLse both = flash_attention_with_lse(q, k, v, {.window = 3});
  const auto expected = flash_attention_forward(q.data(), k.data(), v.data(), {.window = 3});
  EXPECT_TRUE(same_bits(both.o.data(), expected.o));
  EXPECT_TRUE(same_bits(both.lse, expected.lse));
  both.o.backward(ones(both.o.shape(), DType::f64));
  EXPECT_TRUE(same_bits(
      q.grad(), flash_attention_backward(ones(both.o.shape(), DType::f64), q.data(), k.data(),
                                         v.data(), expected.o, expected.lse, {.window = 3})
                    .dq));
}

}  // namespace
}  // namespace weft::attention
