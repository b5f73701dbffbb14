#include "weft/tensor/ops/cumsum.h"

#include <cmath>
#include <limits>

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

std::vector<double> cumsum_naively(const Tensor& x, int axis, bool exclusive, bool reverse) {
  const Tensor moved = x.transpose(axis, -1);
  const std::vector<double> from = moved.to_vector<double>();
  std::vector<double> to(from.size());
  const int64_t n = x.size(axis);
  for (int64_t line = 0; n > 0 && line < x.numel() / n; ++line) {
    for (int64_t i = 0; i < n; ++i) {
      double total = 0;
      for (int64_t j = 0; j < n; ++j) {
        const bool counts = j == i ? !exclusive : reverse ? j > i : j < i;
        if (counts) total += from[static_cast<size_t>(line * n + j)];
      }
      to[static_cast<size_t>(line * n + i)] = total;
    }
  }
  return from_vector(to, moved.shape()).transpose(axis, -1).to_vector<double>();
}

TEST(Cumsum, MatchesLoops) {
  for (const Shape& shape :
       {Shape{1}, Shape{15}, Shape{63, 111}, Shape{3, 15, 70}, Shape{2, 5, 1, 4}, Shape{3, 0}}) {
    for (DType dtype : {DType::f64, DType::f32, DType::bf16, DType::f16}) {
      const Tensor x = random_tensor(shape, dtype);
      for (int axis = 0; axis < x.rank(); ++axis) {
        for (int options = 0; options < 4; ++options) {
          const bool exclusive = options & 1;
          const bool reverse = options & 2;
          const auto expected = cumsum_naively(x, axis, exclusive, reverse);
          for (const Tensor& layout : {x, with_gaps(x), scattered(x)}) {
            const Tensor y = cumsum(layout, axis - x.rank(), exclusive, reverse);
            EXPECT_EQ(y.dtype(), dtype);
            EXPECT_EQ(y.shape(), shape);
            expect_near(y, expected, rounding_error(dtype), 1e-13);
          }
        }
      }
    }
  }
}

TEST(Cumsum, LongSumsOfFloatsStayAccurate) {
  const Tensor y = cumsum(full({1}, 0.1).expand({1000000}), 0);
  EXPECT_NEAR(y.to_vector<double>().back(), 1e6 * full({}, 0.1).item<double>(), 0.01);
}

TEST(Cumsum, IntegersAndBoolsGiveI64) {
  const Tensor x = full({2, 3}, 2000000000, DType::i32);
  EXPECT_EQ(cumsum(x, 1).to_vector<int64_t>(),
            (std::vector<int64_t>{2000000000, 4000000000, 6000000000, 2000000000, 4000000000,
                                  6000000000}));
  const Tensor flags = from_vector<bool>({true, false, true, true}, {4});
  const Tensor positions = cumsum(flags, 0, /*exclusive=*/true);
  EXPECT_EQ(positions.dtype(), DType::i64);
  EXPECT_EQ(positions.to_vector<int64_t>(), (std::vector<int64_t>{0, 1, 1, 2}));
  const int64_t largest = std::numeric_limits<int64_t>::max();
  EXPECT_EQ(cumsum(from_vector<int64_t>({largest, 1}, {2}), 0).to_vector<int64_t>()[1],
            std::numeric_limits<int64_t>::min());
}

TEST(Cumsum, NaNSpreadsForward) {
  const Tensor x = from_vector<float>({1, std::nanf(""), 2}, {3});
  const std::vector<float> y = cumsum(x, 0).to_vector<float>();
  EXPECT_EQ(y[0], 1);
  EXPECT_TRUE(std::isnan(y[1]) && std::isnan(y[2]));
  EXPECT_EQ(cumsum(x, 0, true).to_vector<float>()[1], 1);
}

TEST(Cumsum, RefusesBadAxes) {
  EXPECT_THROW(cumsum(zeros({2}), 1), ShapeError);
  EXPECT_THROW(cumsum(scalar(1), 0), ShapeError);
  EXPECT_THROW(cumsum(Tensor(), 0), ShapeError);
}

}  // namespace
}  // namespace weft
