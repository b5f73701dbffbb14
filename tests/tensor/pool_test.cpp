#include "weft/tensor/ops/pool.h"

#include <cmath>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "weft/tensor/error.h"

#include "random_tensor.h"

namespace weft {
namespace {

using test::expect_near;
using test::random_tensor;
using test::rounding_error;
using test::scattered;

struct Case {
  Shape x;
  Pool2dOptions options;
};

const Case kCases[] = {
    {{1, 1, 1, 1}, {.kernel = {1, 1}}},
    {{2, 3, 6, 8}, {}},
    {{2, 3, 7, 9}, {}},
    {{2, 3, 7, 9}, {.kernel = {3, 2}, .stride = {1, 2}}},
    {{1, 2, 5, 15}, {.kernel = {3, 4}, .stride = {2, 3}, .padding = {1, 2}}},
    {{1, 2, 5, 15},
     {.kernel = {3, 4}, .stride = {2, 1}, .padding = {1, 2}, .count_padding = false}},
    {{1, 1, 3, 3}, {.kernel = {1, 1}, .stride = {2, 2}}},
};

struct Reference {
  std::vector<double> largest, mean, max_dx, mean_dx;
  std::vector<int64_t> indices;
  Shape shape;
};

Reference reference(const Case& c, const Tensor& x, const std::vector<double>* dy) {
  Pool2dOptions options = c.options;
  for (size_t i = 0; i < 2; ++i) {
    if (options.stride[i] == 0) options.stride[i] = options.kernel[i];
  }
  const auto& [kernel, stride, padding, count_padding] = options;
  const int64_t height = c.x[2], width = c.x[3];
  const int64_t H = (height + 2 * padding[0] - kernel[0]) / stride[0] + 1;
  const int64_t W = (width + 2 * padding[1] - kernel[1]) / stride[1] + 1;
  const std::vector<double> values = x.to_vector<double>();
  Reference out;
  out.shape = {c.x[0], c.x[1], H, W};
  out.max_dx.resize(values.size());
  out.mean_dx.resize(values.size());
  size_t at = 0;
  for (int64_t plane = 0; plane < c.x[0] * c.x[1]; ++plane) {
    for (int64_t h = 0; h < H; ++h) {
      for (int64_t w = 0; w < W; ++w, ++at) {
        double largest = -std::numeric_limits<double>::infinity(), sum = 0;
        int64_t index = -1;
        std::vector<size_t> members;
        for (int64_t p = 0; p < kernel[0]; ++p) {
          for (int64_t q = 0; q < kernel[1]; ++q) {
            const int64_t row = h * stride[0] - padding[0] + p;
            const int64_t column = w * stride[1] - padding[1] + q;
            if (row < 0 || row >= height || column < 0 || column >= width) continue;
            members.push_back(static_cast<size_t>((plane * height + row) * width + column));
            const double value = values[members.back()];
            sum += value;
            if (value > largest) {
              largest = value;
              index = row * width + column;
            }
          }
        }
        const double divisor = count_padding ? static_cast<double>(kernel[0] * kernel[1])
                                             : static_cast<double>(members.size());
        out.largest.push_back(largest);
        out.indices.push_back(index);
        out.mean.push_back(sum / divisor);
        if (dy == nullptr) continue;
        out.max_dx[static_cast<size_t>(plane * height * width + index)] += (*dy)[at];
        for (const size_t member : members) out.mean_dx[member] += (*dy)[at] / divisor;
      }
    }
  }
  return out;
}

class PoolOfType : public testing::TestWithParam<DType> {};
INSTANTIATE_TEST_SUITE_P(Types, PoolOfType,
                         testing::Values(DType::f64, DType::f32, DType::bf16, DType::f16),
                         [](const auto& info) { return std::string(to_string(info.param)); });

TEST_P(PoolOfType, MatchesLoops) {
  const DType dtype = GetParam();
  for (const Case& c : kCases) {
    SCOPED_TRACE(to_string(c.x));
    const Tensor x = random_tensor(c.x, dtype, 1);
    const Tensor dy = random_tensor(reference(c, x, nullptr).shape, dtype, 2);
    const std::vector<double> gradient = dy.to_vector<double>();
    const Reference expected = reference(c, x, &gradient);
    const double rounding = rounding_error(dtype), absolute = dtype == DType::f64 ? 1e-14 : 1e-5;
    for (const Tensor& input : {x, scattered(x)}) {
      const MaxPoolResult result = max_pool2d_forward(input, c.options);
      EXPECT_EQ(result.y.shape(), expected.shape);
      EXPECT_EQ(result.y.to_vector<double>(), expected.largest);
      EXPECT_EQ(result.indices.to_vector<int64_t>(), expected.indices);
      expect_near(avg_pool2d(input, c.options), expected.mean, rounding, absolute);
      expect_near(max_pool2d_backward(dy, result.indices, c.x), expected.max_dx, rounding,
                  absolute);
    }
    expect_near(avg_pool2d_backward(dy, c.x, c.options), expected.mean_dx, rounding, absolute);
    expect_near(avg_pool2d_backward(scattered(dy), c.x, c.options), expected.mean_dx, rounding,
                absolute);
  }
}

TEST_P(PoolOfType, OneAxisIsARowOfTwo) {
  const Tensor x = random_tensor({2, 3, 11}, GetParam(), 1);
  const Pool1dOptions options{.kernel = 3, .stride = 2, .padding = 1, .count_padding = false};
  const Pool2dOptions wide{
      .kernel = {1, 3}, .stride = {1, 2}, .padding = {0, 1}, .count_padding = false};
  const MaxPoolResult result = max_pool1d_forward(x, options);
  EXPECT_EQ(result.y.shape(), (Shape{2, 3, 6}));
  EXPECT_EQ(result.y.to_vector<double>(), max_pool2d(x.unsqueeze(2), wide).to_vector<double>());
  EXPECT_EQ(max_pool1d(x, options).to_vector<double>(), result.y.to_vector<double>());
  EXPECT_EQ(avg_pool1d(x, options).to_vector<double>(),
            avg_pool2d(x.unsqueeze(2), wide).to_vector<double>());
  EXPECT_EQ(max_pool1d_backward(result.y, result.indices, x.shape()).shape(), x.shape());
  EXPECT_EQ(avg_pool1d_backward(result.y, x.shape(), options).shape(), x.shape());
}

TEST(Pool, MaximumKeepsNanAndPrefersTheFirst) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const double infinity = std::numeric_limits<double>::infinity();
  const Tensor x = from_vector<double>({1, nan, 2, nan, -infinity, -infinity, 5, 5}, {1, 1, 1, 8});
  const MaxPoolResult result = max_pool2d_forward(x, {.kernel = {1, 4}});
  const std::vector<double> y = result.y.to_vector<double>();
  EXPECT_TRUE(std::isnan(y[0]));
  EXPECT_EQ(y[1], 5);
  EXPECT_EQ(result.indices.to_vector<int64_t>(), (std::vector<int64_t>{1, 6}));
  const Tensor low = full({1, 1, 1, 2}, -infinity, DType::f32);
  EXPECT_EQ(max_pool2d_forward(low, {.kernel = {1, 2}}).indices.item<int64_t>(), 0);
}

TEST(Pool, EmptyBatch) {
  EXPECT_EQ(max_pool2d(empty({0, 3, 4, 4})).shape(), (Shape{0, 3, 2, 2}));
  EXPECT_EQ(avg_pool2d(empty({2, 0, 4, 4})).shape(), (Shape{2, 0, 2, 2}));
  EXPECT_EQ(avg_pool2d_backward(empty({0, 3, 2, 2}), {0, 3, 4, 4}).shape(), (Shape{0, 3, 4, 4}));
}

TEST(Pool, RefusesWhatDoesNotFit) {
  const Tensor x = zeros({1, 1, 4, 4});
  EXPECT_THROW(max_pool2d(zeros({4, 4})), ShapeError);
  EXPECT_THROW(max_pool2d(Tensor()), ShapeError);
  EXPECT_THROW(max_pool2d(x, {.kernel = {5, 1}}), ShapeError);
  EXPECT_THROW(avg_pool2d(zeros({1, 1, 0, 4}), {.kernel = {1, 1}}), ShapeError);
  EXPECT_THROW(avg_pool2d(x, {.kernel = {0, 1}}), ConfigError);
  EXPECT_THROW(avg_pool2d(x, {.stride = {-1, 1}}), ConfigError);
  EXPECT_THROW(avg_pool2d(x, {.kernel = {3, 3}, .padding = {2, 0}}), ConfigError);
  EXPECT_THROW(max_pool2d(zeros({1, 1, 4, 4}, DType::i64)), DTypeError);
  EXPECT_THROW(avg_pool2d_backward(zeros({1, 1, 3, 2}), x.shape()), ShapeError);
  const Tensor dy = zeros({1, 1, 2, 2});
  EXPECT_THROW(max_pool2d_backward(dy, zeros({1, 1, 2, 2}), x.shape()), DTypeError);
  EXPECT_THROW(max_pool2d_backward(dy, zeros({1, 1, 2, 1}, DType::i64), x.shape()), ShapeError);
  EXPECT_THROW(max_pool2d_backward(dy, zeros({1, 1, 2, 2}, DType::i64), {1, 2, 4, 4}), ShapeError);
  EXPECT_THROW(max_pool2d_backward(dy, full({1, 1, 2, 2}, 16, DType::i64), x.shape()), IndexError);
  EXPECT_THROW(max_pool2d_backward(dy, full({1, 1, 2, 2}, -1, DType::i64), x.shape()), IndexError);
}

}  // namespace
}  // namespace weft
