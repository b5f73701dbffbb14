#include "weft/attention/selection.h"

#include <algorithm>

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
using testing::random_shape;

const SelectionShape kSmall{.groups = 1, .queries = 3, .keys = 20, .key_block = 4};

Tensor offsets_of(const std::vector<int64_t>& values) {
  return from_vector(values, {static_cast<int64_t>(values.size())});
}
Tensor blocks_of(const std::vector<int32_t>& values) {
  return from_vector(values, {static_cast<int64_t>(values.size())});
}

TEST(SelectionShape, CutsQueriesAtMultiplesOfTheTile) {
  // Positions 5..14 in runs of 4: 5 6 7 | 8 9 10 11 | 12 13 14.
  const SelectionShape shape{.queries = 10, .keys = 15, .position = 5, .query_tile = 4};
  EXPECT_EQ(shape.tiles(), 3);
  EXPECT_EQ(shape.first_query(0), 0);
  EXPECT_EQ(shape.last_query(0), 3);
  EXPECT_EQ(shape.first_query(1), 3);
  EXPECT_EQ(shape.last_query(1), 7);
  EXPECT_EQ(shape.first_query(2), 7);
  EXPECT_EQ(shape.last_query(2), 10);
  EXPECT_EQ(shape.blocks(), 1);
}

TEST(SelectionShape, TilesCoverTheQueriesInOrder) {
  Draw draw(3);
  for (int i = 0; i < 300; ++i) {
    const SelectionShape shape = random_shape(draw);
    int64_t query = 0;
    for (int64_t tile = 0; tile < shape.tiles(); ++tile) {
      ASSERT_EQ(shape.first_query(tile), query) << describe(shape);
      ASSERT_LT(query, shape.last_query(tile)) << describe(shape);
      for (; query < shape.last_query(tile); ++query) {
        ASSERT_EQ(shape.tile_of(query), tile) << describe(shape);
        ASSERT_EQ((shape.position + query) / shape.query_tile,
                  (shape.position + shape.first_query(tile)) / shape.query_tile);
      }
    }
    ASSERT_EQ(query, shape.queries) << describe(shape);
    ASSERT_EQ(shape.lists(), shape.batch * shape.groups * shape.tiles());
  }
}

TEST(Selection, KeepsItsLists) {
  const SelectionShape shape{.batch = 2, .groups = 2, .queries = 2, .keys = 9, .key_block = 4};
  const Lists lists{{0, 2}, {}, {1}, {0, 1, 2}, {}, {}, {2}, {0}};
  const Selection selection = Selection::from_lists(shape, lists);
  EXPECT_EQ(lists_of(selection), lists);
  EXPECT_EQ(selection.shape(), shape);
  EXPECT_EQ(selection.total(), 8);
  EXPECT_EQ(selection.list(1, 1, 0).front(), 2);
}

TEST(Selection, MayHoldNothing) {
  SelectionShape shape = kSmall;
  shape.queries = 0;
  const Selection none = Selection::from_lists(shape, {});
  EXPECT_EQ(none.total(), 0);
  EXPECT_EQ(none.shape().lists(), 0);
  shape.queries = 3;
  shape.batch = 0;
  EXPECT_EQ(Selection::from_lists(shape, {}).total(), 0);
  shape.batch = 1;
  shape.keys = 0;
  EXPECT_EQ(Selection::from_lists(shape, {{}, {}, {}}).total(), 0);
}

TEST(Selection, MayLeaveRoomBehindTheLastList) {
  const Selection selection(kSmall, offsets_of({0, 1, 1, 3}), blocks_of({4, 0, 2, -7, 99}));
  EXPECT_EQ(lists_of(selection), (Lists{{4}, {}, {0, 2}}));
  EXPECT_EQ(selection.total(), 3);
}

TEST(Selection, RefusesShapesThatMeanNothing) {
  const auto text = [](auto change) {
    SelectionShape shape = kSmall;
    change(shape);
    return message_of<Error>([&] { Selection::from_lists(shape, {{}, {}, {}}); });
  };
  EXPECT_NE(text([](SelectionShape& s) { s.batch = -1; }).find("got -1, 3, 20 and 1"),
            std::string::npos);
  EXPECT_NE(text([](SelectionShape& s) { s.groups = 0; }).find("groups of at least 1"),
            std::string::npos);
  EXPECT_NE(text([](SelectionShape& s) { s.queries = -2; }).find("-2"), std::string::npos);
  EXPECT_NE(text([](SelectionShape& s) { s.keys = -3; }).find("-3"), std::string::npos);
  EXPECT_NE(text([](SelectionShape& s) { s.position = -1; }).find("position must be at least 0"),
            std::string::npos);
  EXPECT_NE(text([](SelectionShape& s) { s.query_tile = 0; }).find("query_tile and key_block"),
            std::string::npos);
  EXPECT_NE(text([](SelectionShape& s) { s.key_block = -4; }).find("got 1 and -4"),
            std::string::npos);
}

TEST(Selection, RefusesTensorsOfTheWrongForm) {
  const auto shape_text = [](const Tensor& offsets, const Tensor& blocks) {
    return message_of<ShapeError>([&] { Selection(kSmall, offsets, blocks); });
  };
  EXPECT_NE(shape_text(offsets_of({0, 0}), blocks_of({})).find("offsets must be [4], got [2]"),
            std::string::npos);
  EXPECT_NE(shape_text(Tensor(), blocks_of({})).find("undefined"), std::string::npos);
  EXPECT_NE(shape_text(offsets_of({0, 0, 0, 0}), zeros({1, 1}, DType::i32)).find("one axis"),
            std::string::npos);
  EXPECT_NE(shape_text(offsets_of({0, 0, 0, 0}), Tensor()).find("undefined"), std::string::npos);
  const auto type_text = [](DType offsets, DType blocks) {
    return message_of<DTypeError>(
        [&] { Selection(kSmall, zeros({4}, offsets), zeros({1}, blocks)); });
  };
  EXPECT_NE(type_text(DType::i32, DType::i32).find("offsets must be i64"), std::string::npos);
  EXPECT_NE(type_text(DType::i64, DType::i64).find("blocks i32"), std::string::npos);
  EXPECT_NE(message_of<ShapeError>([] {
              Selection::from_lists(kSmall, {{0}, {1}});
            }).find("offsets must be [4], got [3]"),
            std::string::npos);
}

TEST(Selection, RefusesListsThatAreNone) {
  const auto text = [](const std::vector<int64_t>& offsets, const std::vector<int32_t>& blocks) {
    return message_of<IndexError>(
        [&] { Selection(kSmall, offsets_of(offsets), blocks_of(blocks)); });
  };
  EXPECT_NE(text({1, 1, 1, 1}, {0, 1}).find("offsets must run from 0"), std::string::npos);
  EXPECT_NE(text({0, 1, 2, 3}, {0, 1}).find("at most 2 blocks, got 0 to 3"), std::string::npos);
  EXPECT_NE(text({0, 2, 1, 2}, {0, 1}).find("got 1 after 2 at list 1"), std::string::npos);
  EXPECT_NE(text({0, 9, 1, 2}, {0, 1}).find("must ascend to at most 2"), std::string::npos);
  EXPECT_NE(text({0, -1, 1, 2}, {0, 1}).find("got -1 after 0"), std::string::npos);
  // Blocks 0 to 4 exist.
  EXPECT_NE(text({0, 1, 1, 1}, {5}).find("list 0 must name blocks of 0 to 4"), std::string::npos);
  EXPECT_NE(text({0, 0, 1, 1}, {-1}).find("list 1"), std::string::npos);
  EXPECT_NE(text({0, 2, 2, 2}, {2, 2}).find("got 2 after 2"), std::string::npos);
  EXPECT_NE(text({0, 2, 2, 2}, {3, 1}).find("got 1 after 3"), std::string::npos);
}

TEST(Selection, RefusesToShowListsThatDoNotExist) {
  const Selection selection = Selection::from_lists(kSmall, {{0}, {1}, {2}});
  EXPECT_NE(message_of<IndexError>([&] { selection.list(0, 0, 3); }).find("no list (0, 0, 3)"),
            std::string::npos);
  EXPECT_THROW(selection.list(0, 1, 0), IndexError);
  EXPECT_THROW(selection.list(1, 0, 0), IndexError);
  EXPECT_THROW(selection.list(0, 0, -1), IndexError);
}

}  // namespace
}  // namespace weft::attention
