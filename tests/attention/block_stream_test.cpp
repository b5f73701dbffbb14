#include "weft/attention/block_stream.h"

#include "weft/attention/block_compressor.h"

#include "attention_test_data.h"

namespace weft::attention {
namespace {

using testing::largest_difference;
using testing::message_of;
using testing::random_tensor;
using testing::same_bits;

TEST(BlockStream, GivesEveryBlockOnceHoweverRowsArrive) {
  const int64_t length = 61;
  const Tensor x = random_tensor({2, length, 3, 4}, DType::f32, 1);
  for (const BlockShape& shape : {BlockShape{4, 2}, BlockShape{5, 5}, BlockShape{6, 2},
                                  BlockShape{1, 1}, BlockShape{32, 16}}) {
    const Tensor whole = block_pool_forward(x, shape);
    const std::vector<std::vector<int64_t>> arrivals = {
        {1}, {2}, {3, 1, 1}, {7}, {1, 1, 1, 1, 20}, {length}, {length - 1, 1}, {0, 5}};
    for (const std::vector<int64_t>& counts : arrivals) {
      BlockStream stream(shape, 2, length, 3, 4, DType::f32, kCpu);
      EXPECT_EQ(stream.bytes(), 2 * shape.block * 3 * 4 * 4);
      for (int round = 0; round < 2; ++round) {
        int64_t blocks = 0;
        for (size_t i = 0; stream.length() < length; ++i) {
          const int64_t begin = stream.length();
          const int64_t end = std::min(length, begin + counts[i % counts.size()]);
          const Tensor fresh = block_pool_forward(stream.append(x.slice(1, begin, end)), shape);
          EXPECT_EQ(stream.length(), end);
          EXPECT_EQ(blocks + fresh.size(1), shape.count(end));
          EXPECT_TRUE(same_bits(fresh, whole.slice(1, blocks, shape.count(end))));
          blocks += fresh.size(1);
        }
        EXPECT_EQ(blocks, whole.size(1));
        stream.reset();
        EXPECT_EQ(stream.length(), 0);
      }
    }
  }
}

TEST(BlockStream, KeepsNoMoreThanFits) {
  BlockStream stream({16, 8}, 1, 5, 2, 4, DType::bf16, kCpu);
  EXPECT_EQ(stream.bytes(), 5 * 2 * 4 * 2);
  EXPECT_EQ(stream.append(zeros({1, 5, 2, 4}, DType::bf16)).shape(), Shape({1, 0, 2, 4}));
}

TEST(BlockStream, RefusesWhatDoesNotFit) {
  BlockStream stream({4, 2}, 1, 10, 2, 4, DType::f32, kCpu);
  message_of<ShapeError>([&] { stream.append(zeros({1, 2, 2, 5})); });
  message_of<DTypeError>([&] { stream.append(zeros({1, 2, 2, 4}, DType::f64)); });
  EXPECT_EQ(stream.length(), 0);
  message_of<ConfigError>([] { BlockStream({4, 0}, 1, 10, 2, 4, DType::f32, kCpu); });
}

}  // namespace
}  // namespace weft::attention
