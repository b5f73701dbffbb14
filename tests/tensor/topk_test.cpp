#include "weft/tensor/ops/topk.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include <gtest/gtest.h>

#include "weft/tensor/error.h"

#include "random_tensor.h"

namespace weft {
namespace {

using test::random_tensor;
using test::scattered;
using test::with_gaps;

/// Expects the result of a stable descending sort of every line.
void expect_topk(const Tensor& x, int64_t k, int axis) {
  SCOPED_TRACE(testing::Message() << describe(x) << " k " << k << " axis " << axis);
  const TopK found = topk(x, k, axis);
  EXPECT_EQ(found.values.dtype(), x.dtype());
  EXPECT_EQ(found.indices.dtype(), DType::i64);
  Shape shape = x.shape();
  shape[axis < 0 ? axis + x.rank() : axis] = k;
  ASSERT_EQ(found.values.shape(), shape);
  ASSERT_EQ(found.indices.shape(), shape);
  const std::vector<double> from = x.transpose(axis, -1).to_vector<double>();
  const std::vector<double> values = found.values.transpose(axis, -1).to_vector<double>();
  const std::vector<int64_t> indices = found.indices.transpose(axis, -1).to_vector<int64_t>();
  const int64_t n = x.size(axis);
  for (int64_t line = 0; line < x.numel() / n; ++line) {
    std::vector<int64_t> order(static_cast<size_t>(n));
    std::iota(order.begin(), order.end(), int64_t{0});
    const auto key = [&](int64_t i) {
      const double value = from[static_cast<size_t>(line * n + i)];
      return std::isnan(value) ? std::pair(1, 0.0) : std::pair(0, value);
    };
    std::stable_sort(order.begin(), order.end(),
                     [&](int64_t a, int64_t b) { return key(a) > key(b); });
    for (int64_t i = 0; i < k; ++i) {
      const auto at = static_cast<size_t>(line * k + i);
      ASSERT_EQ(indices[at], order[static_cast<size_t>(i)]) << "line " << line << " place " << i;
      const double expected = from[static_cast<size_t>(line * n + indices[at])];
      ASSERT_TRUE(values[at] == expected || (std::isnan(values[at]) && std::isnan(expected)));
    }
  }
}

TEST(TopK, IsTheHeadOfAStableSort) {
  for (const Shape& shape :
       {Shape{1}, Shape{15}, Shape{63, 111}, Shape{4, 600}, Shape{3, 5, 7, 2}}) {
    for (DType dtype :
         {DType::f64, DType::f32, DType::bf16, DType::f16, DType::i64, DType::i32, DType::u8}) {
      // 40 different values: most are tied.
      const Tensor x = random_tensor(shape, DType::f64, 4, 0, 40).to(DType::i32).to(dtype);
      for (int axis = 0; axis < x.rank(); ++axis) {
        const int64_t n = x.size(axis);
        for (int64_t k : {int64_t{1}, int64_t{2}, int64_t{16}, int64_t{129}, n / 2, n}) {
          if (k < 1 || k > n) continue;
          expect_topk(x, k, axis);
          expect_topk(scattered(x), k, axis - x.rank());
          expect_topk(with_gaps(x), k, axis);
        }
      }
    }
  }
}

TEST(TopK, RisingAndFallingRows) {
  const Tensor rising = arange(0, 1000).to(DType::f32);
  for (int64_t k : {3, 128, 500}) {
    expect_topk(rising, k, 0);
    expect_topk(full({1000}, -1), k, 0);
    expect_topk(full({1000}, -std::numeric_limits<double>::infinity()), k, 0);
  }
}

TEST(TopK, NaNIsLargest) {
  std::vector<double> values = random_tensor({500}, DType::f64).to_vector<double>();
  for (size_t at : {3, 77, 78, 400}) values[at] = std::nan("");
  values[200] = std::numeric_limits<double>::infinity();
  values[1] = -std::numeric_limits<double>::infinity();
  const Tensor x = from_vector(values, {500});
  for (int64_t k : {1, 2, 4, 5, 100, 200, 500}) expect_topk(x, k, 0);
  EXPECT_EQ(topk(x.to(DType::f32), 5, 0).indices.to_vector<int64_t>(),
            (std::vector<int64_t>{3, 77, 78, 400, 200}));
}

TEST(TopK, EmptyOuterAxes) {
  EXPECT_EQ(topk(empty({0, 4}), 2).values.shape(), (Shape{0, 2}));
}

TEST(TopK, ErrorsSayWhatIsWrong) {
  const Tensor x = zeros({2, 3});
  EXPECT_THROW(topk(x, 0), ConfigError);
  EXPECT_THROW(topk(x, 1, 2), ShapeError);
  EXPECT_THROW(topk(empty({2, 0}), 1), ConfigError);
  EXPECT_THROW(topk(zeros({2}, DType::boolean), 1), DTypeError);
  EXPECT_THROW(topk(Tensor(), 1), ShapeError);
  try {
    topk(x, 4, -1);
    FAIL();
  } catch (const ConfigError& error) {
    EXPECT_STREQ(error.what(),
                 "topk: k must be from 1 to the size of axis 1 of [2, 3] f32 cpu, got 4");
  }
}

}  // namespace
}  // namespace weft
