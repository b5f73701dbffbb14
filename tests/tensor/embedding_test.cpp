#include "weft/tensor/ops/embedding.h"

#include <gtest/gtest.h>

#include "weft/tensor/error.h"
#include "weft/tensor/parallel.h"

#include "random_tensor.h"

namespace weft {
namespace {

using test::expect_near;
using test::random_tensor;
using test::rounding_error;
using test::scattered;
using test::with_gaps;

constexpr DType kFloating[] = {DType::f64, DType::f32, DType::bf16, DType::f16};

Tensor random_ids(const Shape& shape, int64_t vocabulary, uint64_t seed = 5) {
  return random_tensor(shape, DType::f64, seed, 0, static_cast<double>(vocabulary)).to(DType::i64);
}

TEST(Embedding, PicksRowsForEveryTypeAndLayout) {
  const Tensor ids = random_ids({3, 15}, 11);
  const std::vector<int64_t> id = ids.to_vector<int64_t>();
  for (DType dtype : {DType::f64, DType::f32, DType::bf16, DType::f16, DType::i64, DType::u8}) {
    const Tensor table = random_tensor({11, 63}, DType::f64, 2, 0, 200).to(dtype);
    const std::vector<double> rows = table.to_vector<double>();
    std::vector<double> expected;
    for (int64_t v : id)
      expected.insert(expected.end(), rows.begin() + v * 63, rows.begin() + (v + 1) * 63);
    for (const Tensor& layout : {table, with_gaps(table), scattered(table)}) {
      for (const Tensor& list : {ids, ids.to(DType::i32), scattered(ids)}) {
        const Tensor y = embedding(layout, list);
        EXPECT_EQ(y.shape(), (Shape{3, 15, 63}));
        EXPECT_EQ(y.dtype(), dtype);
        EXPECT_EQ(y.to_vector<double>(), expected);
      }
    }
  }
}

TEST(Embedding, RoundsToHalfTypesOnTheWay) {
  for (const int64_t length : {1, 15, 64}) {
    const Tensor table = random_tensor({11, length}, DType::f32, 2);
    const Tensor ids = random_ids({3, 15}, 11);
    for (const DType dtype : {DType::bf16, DType::f16}) {
      for (const Tensor& layout : {table, with_gaps(table), scattered(table)}) {
        const Tensor y = embedding(layout, ids, dtype);
        EXPECT_EQ(y.dtype(), dtype);
        EXPECT_EQ(y.to_vector<float>(), embedding(table, ids).to(dtype).to_vector<float>());
      }
      const Tensor dy = random_tensor({3, 15, length}, dtype, 3);
      for (const Tensor& layout : {dy, with_gaps(dy), scattered(dy)}) {
        const Tensor dtable = embedding_backward(layout, ids, 11, DType::f32);
        EXPECT_EQ(dtable.dtype(), DType::f32);
        EXPECT_EQ(dtable.to_vector<float>(),
                  embedding_backward(dy.to(DType::f32), ids, 11).to_vector<float>());
      }
    }
  }
  const Tensor ids = zeros({2}, DType::i64);
  EXPECT_THROW(embedding(zeros({3, 4}), ids, DType::f64), DTypeError);
  EXPECT_THROW(embedding(zeros({3, 4}, DType::bf16), ids, DType::f32), DTypeError);
  EXPECT_THROW(embedding_backward(zeros({2, 4}), ids, 3, DType::bf16), DTypeError);
}

TEST(Embedding, OneIdAndNoIds) {
  const Tensor table = random_tensor({4, 3}, DType::f32);
  EXPECT_EQ(embedding(table, full({}, 2, DType::i64)).to_vector<float>(),
            table.select(0, 2).to_vector<float>());
  EXPECT_EQ(embedding(table, empty({0, 2}, DType::i64)).shape(), (Shape{0, 2, 3}));
  EXPECT_EQ(embedding(empty({4, 0}), zeros({2}, DType::i64)).shape(), (Shape{2, 0}));
  EXPECT_EQ(embedding_backward(empty({0, 3}), empty({0}, DType::i64), 2).to_vector<float>(),
            std::vector<float>(6, 0));
}

TEST(Embedding, BackwardAddsUpTheRowsOfEachId) {
  for (const auto [vocabulary, count, length] :
       {std::array<int64_t, 3>{1, 1, 1}, std::array<int64_t, 3>{7, 100, 15},
        std::array<int64_t, 3>{300, 111, 63}, std::array<int64_t, 3>{5, 222, 700}}) {
    const Tensor ids = random_ids({count}, vocabulary);
    const std::vector<int64_t> id = ids.to_vector<int64_t>();
    for (DType dtype : kFloating) {
      const Tensor dy = random_tensor({count, length}, dtype);
      const std::vector<double> rows = dy.to_vector<double>();
      std::vector<double> expected(static_cast<size_t>(vocabulary * length), 0);
      for (int64_t i = 0; i < count; ++i)
        for (int64_t c = 0; c < length; ++c)
          expected[static_cast<size_t>(id[static_cast<size_t>(i)] * length + c)] +=
              rows[static_cast<size_t>(i * length + c)];
      for (const Tensor& layout : {dy, with_gaps(dy), scattered(dy)}) {
        for (const Tensor& list : {ids, ids.to(DType::i32)}) {
          const Tensor dtable = embedding_backward(layout, list, vocabulary);
          EXPECT_EQ(dtable.shape(), (Shape{vocabulary, length}));
          EXPECT_EQ(dtable.dtype(), dtype);
          // Sums of up to 222 terms of magnitude 2 in at least f32, rounded once.
          expect_near(dtable, expected, rounding_error(dtype),
                      dtype == DType::f64 ? 1e-12 : 222 * 2 * 222 * 0x1p-25);
        }
      }
    }
  }
}

TEST(Embedding, BackwardKeepsMoreBitsThanItsType) {
  // One after the other in bf16, ones would stop adding up at 256.
  const Tensor dtable =
      embedding_backward(ones({2048, 3}, DType::bf16), zeros({2048}, DType::i64), 2);
  EXPECT_EQ(dtable.to_vector<float>(), (std::vector<float>{2048, 2048, 2048, 0, 0, 0}));
}

TEST(Embedding, BackwardDoesNotDependOnTheNumberOfThreads) {
  const Tensor dy = random_tensor({3000, 130}, DType::f32);
  const Tensor ids = random_ids({3000}, 6);
  const int before = num_threads();
  set_num_threads(1);
  const std::vector<float> one = embedding_backward(dy, ids, 6).to_vector<float>();
  for (int threads : {2, 3, 8}) {
    set_num_threads(threads);
    EXPECT_EQ(embedding_backward(dy, ids, 6).to_vector<float>(), one) << threads;
  }
  set_num_threads(before);
}

TEST(Embedding, ErrorsNameTheIdItsPositionAndTheVocabulary) {
  const Tensor table = zeros({65, 4});
  for (const auto& [bad, text] :
       {std::pair<int64_t, const char*>{65,
                                        "embedding: id 65 at position [1, 2] is outside the "
                                        "vocabulary of 65 entries"},
        std::pair<int64_t, const char*>{-1,
                                        "embedding: id -1 at position [1, 2] is outside the "
                                        "vocabulary of 65 entries"}}) {
    Tensor ids = zeros({2, 3}, DType::i64);
    ids.select(0, 1).select(0, 2).fill_(static_cast<double>(bad));
    for (const Tensor& list : {ids, ids.to(DType::i32)}) {
      try {
        embedding(table, list);
        FAIL();
      } catch (const IndexError& error) {
        EXPECT_STREQ(error.what(), text);
      }
      EXPECT_THROW(embedding_backward(zeros({2, 3, 4}), list, 65), IndexError);
    }
  }
  const Tensor ids = zeros({2}, DType::i64);
  EXPECT_THROW(embedding(zeros({4}), ids), ShapeError);
  EXPECT_THROW(embedding(table, zeros({2})), DTypeError);
  EXPECT_THROW(embedding(empty({0, 4}), ids), IndexError);
  EXPECT_THROW(embedding_backward(zeros({3, 4}), ids, 65), ShapeError);
  EXPECT_THROW(embedding_backward(zeros({2, 4}, DType::i64), ids, 65), DTypeError);
  EXPECT_THROW(embedding_backward(zeros({2, 4}), ids, -1), ConfigError);
}

}  // namespace
}  // namespace weft
