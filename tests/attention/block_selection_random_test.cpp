#include <algorithm>
#include <optional>

#include "weft/attention/kernels/block_selection.h"

#include "attention_test_data.h"
#include "block_selection_test_data.h"
#include "reference/block_selection_reference.h"
#include "selection_test_data.h"

namespace weft::attention {
namespace {

using testing::Draw;
using testing::expect_matches;
using testing::expect_matches_oracle;
using testing::expect_split_agrees;
using testing::tolerance_of;
using Case = testing::BlockSelectionCase;
using Sequence = testing::BlockSelectionSequence;

Case random_case(Draw& draw) {
  const std::vector<int64_t> few{1, 1, 2, 3, 4};
  Case c;
  BlockSelectionOptions& o = c.options;
  o.compression_stride = draw(1, 5);
  const int64_t chunks = draw.of(few);
  o.compression_block = o.compression_stride * chunks;
  o.key_block = o.compression_stride * draw(chunks, chunks + 4);
  o.initial = draw(0, 3);
  o.local = draw(1, 3);
  o.count = o.initial + o.local + draw(0, 9);
  do {
    o.query_tile = draw(1, o.key_block);
  } while (o.key_block % o.query_tile != 0);
  c.batch = draw(1, 2);
  c.groups = draw(1, 3);
  c.heads = c.groups * draw.of(std::vector<int64_t>{1, 2, 3, 4, 5, 9, 20});
  c.dim = draw(1, 20);
  c.queries = draw(1, draw(0, 3) == 0 ? 500 : 120);
  c.dtype = draw.of(std::vector<DType>{DType::f64, DType::f32, DType::bf16, DType::f16});
  return c;
}

TEST(BlockSelectionSlow, RandomConfigurationsMatchOracle) {
  Draw draw(21);
  for (int i = 0; i < 600; ++i) {
    const Case c = random_case(draw);
    expect_matches_oracle(c, static_cast<uint64_t>(100 + i));
    if (HasFatalFailure()) return;
  }
}

TEST(BlockSelectionSlow, RandomSplitsGiveTheSameLists) {
  Draw draw(22);
  for (int i = 0; i < 300; ++i) {
    const Case c = random_case(draw);
    std::vector<int64_t> ends;
    for (int64_t end = 0; end < c.queries;) {
      end = std::min(c.queries, end + draw(1, draw(0, 1) == 0 ? 4 : 100));
      ends.push_back(end);
    }
    SCOPED_TRACE(::testing::PrintToString(c));
    expect_split_agrees(Sequence(c, static_cast<uint64_t>(i)), ends);
    if (HasFatalFailure()) return;
  }
}

TEST(BlockSelectionSlow, RandomPartsMatchOracle) {
  // Calls in the middle of a sequence, with more keys than the queries see.
  Draw draw(23);
  for (int i = 0; i < 300; ++i) {
    const Case c = random_case(draw);
    const Sequence x(c, static_cast<uint64_t>(i), 2);
    const int64_t begin = draw(0, c.queries - 1), end = draw(begin + 1, c.queries);
    std::optional<Selection> before;
    if (begin > 0) before = x.select(0, begin);
    const Selection* const inherited = before.has_value() ? &*before : nullptr;
    const Tensor q = x.q.slice(1, begin, end);
    expect_matches(
        select_blocks(q, x.k, x.lse.slice(2, begin, end), begin, c.queries, c.options, inherited),
        reference::select_blocks(q, x.k, begin, c.queries, c.options, inherited), tolerance_of(c),
        c.options, ::testing::PrintToString(c));
    if (HasFatalFailure()) return;
  }
}

}  // namespace
}  // namespace weft::attention
