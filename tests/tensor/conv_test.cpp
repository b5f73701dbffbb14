#include "weft/tensor/ops/conv.h"

#include <cmath>
#include <vector>

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

struct Case {
  Shape x, weight;
  Conv2dOptions options;
};

const Case kCases[] = {
    {{1, 1, 1, 1}, {1, 1, 1, 1}, {}},
    {{2, 3, 5, 7}, {4, 3, 3, 2}, {}},
    {{2, 3, 5, 7}, {4, 3, 1, 1}, {}},
    {{1, 2, 9, 8}, {3, 2, 3, 3}, {.stride = {2, 3}, .padding = {1, 2}}},
    {{1, 2, 9, 11}, {3, 2, 3, 2}, {.padding = {2, 1}, .dilation = {2, 3}}},
    {{3, 4, 6, 5}, {6, 2, 3, 3}, {.padding = {1, 1}, .groups = 2}},
    {{2, 3, 6, 15}, {3, 1, 3, 4}, {.padding = {1, 2}, .groups = 3}},  // depthwise
    {{2, 3, 7, 9},
     {3, 1, 2, 3},
     {.stride = {2, 2}, .padding = {0, 1}, .dilation = {1, 2}, .groups = 3}},
    {{1, 3, 4, 4}, {6, 1, 3, 3}, {.groups = 3}},        // two filters a channel
    {{1, 2, 2, 2}, {2, 2, 3, 3}, {.padding = {5, 4}}},  // padding beyond the kernel
    {{2, 3, 5, 5}, {2, 3, 1, 1}, {.stride = {2, 2}}},
    {{9, 2, 4, 3}, {2, 2, 2, 2}, {.padding = {1, 0}}},      // gradients summed in parts
    {{1, 64, 40, 70}, {3, 64, 3, 3}, {.padding = {1, 1}}},  // several blocks of rows
};

struct Reference {
  std::vector<double> y, dx, dweight, dbias;
  Shape y_shape;
};

int64_t output_size(int64_t size, int64_t kernel, int64_t stride, int64_t padding,
                    int64_t dilation) {
  int64_t count = 0;  // counted, not computed
  for (int64_t start = -padding; start + dilation * (kernel - 1) < size + padding; start += stride)
    ++count;
  return count;
}

/// Plain loops; the gradients are those of <y, dy>.
Reference reference(const Case& c, const Tensor& x, const Tensor& weight, const Tensor& bias,
                    const std::vector<double>* dy) {
  const auto& [stride, padding, dilation, groups] = c.options;
  const Shape& xs = c.x;
  const Shape& ws = c.weight;
  const int64_t H = output_size(xs[2], ws[2], stride[0], padding[0], dilation[0]);
  const int64_t W = output_size(xs[3], ws[3], stride[1], padding[1], dilation[1]);
  const auto xv = x.to_vector<double>(), wv = weight.to_vector<double>(),
             bv = bias.to_vector<double>();
  Reference out;
  out.y_shape = {xs[0], ws[0], H, W};
  out.y.resize(static_cast<size_t>(out.y_shape.numel()));
  out.dx.resize(xv.size());
  out.dweight.resize(wv.size());
  out.dbias.resize(bv.size());
  size_t at = 0;
  for (int64_t n = 0; n < xs[0]; ++n) {
    for (int64_t o = 0; o < ws[0]; ++o) {
      for (int64_t h = 0; h < H; ++h) {
        for (int64_t w = 0; w < W; ++w, ++at) {
          out.y[at] = bv[static_cast<size_t>(o)];
          const double gradient = dy != nullptr ? (*dy)[at] : 0;
          out.dbias[static_cast<size_t>(o)] += gradient;
          for (int64_t i = 0; i < ws[1]; ++i) {
            const int64_t channel = o / (ws[0] / groups) * ws[1] + i;
            for (int64_t p = 0; p < ws[2]; ++p) {
              for (int64_t q = 0; q < ws[3]; ++q) {
                const int64_t row = h * stride[0] - padding[0] + p * dilation[0];
                const int64_t column = w * stride[1] - padding[1] + q * dilation[1];
                if (row < 0 || row >= xs[2] || column < 0 || column >= xs[3]) continue;
                const auto from =
                    static_cast<size_t>(((n * xs[1] + channel) * xs[2] + row) * xs[3] + column);
                const auto tap = static_cast<size_t>(((o * ws[1] + i) * ws[2] + p) * ws[3] + q);
                out.y[at] += xv[from] * wv[tap];
                out.dx[from] += gradient * wv[tap];
                out.dweight[tap] += gradient * xv[from];
              }
            }
          }
        }
      }
    }
  }
  return out;
}

class ConvOfType : public testing::TestWithParam<DType> {};
INSTANTIATE_TEST_SUITE_P(Types, ConvOfType,
                         testing::Values(DType::f64, DType::f32, DType::bf16, DType::f16),
                         [](const auto& info) { return std::string(to_string(info.param)); });

TEST_P(ConvOfType, MatchesLoops) {
  const DType dtype = GetParam();
  for (const Case& c : kCases) {
    SCOPED_TRACE(testing::Message() << to_string(c.x) << " * " << to_string(c.weight));
    const Tensor x = random_tensor(c.x, dtype, 1), weight = random_tensor(c.weight, dtype, 2);
    const Tensor bias = random_tensor({c.weight[0]}, dtype, 3);
    const Shape y_shape = reference(c, x, weight, bias, nullptr).y_shape;
    const Tensor dy = random_tensor(y_shape, dtype, 4);
    const std::vector<double> gradient = dy.to_vector<double>();
    const Reference expected = reference(c, x, weight, bias, &gradient);
    // Sums of up to 3000 terms of magnitude 4 in f32 (f64). The bias is rounded to the type before
    // the sum is added.
    const double sums = dtype == DType::f64 ? 1e-10 : 3e-3;
    const double rounding = rounding_error(dtype);
    const Tensor y = conv2d(x, weight, bias, c.options);
    EXPECT_EQ(y.shape(), y_shape);
    expect_near(y, expected.y, rounding, sums + 2 * rounding);
    expect_near(conv2d(scattered(x), scattered(weight), bias, c.options), expected.y, rounding,
                sums + 2 * rounding);
    expect_near(conv2d_backward_input(dy, weight, c.x, c.options), expected.dx, rounding, sums);
    expect_near(conv2d_backward_input(scattered(dy), weight, c.x, c.options), expected.dx, rounding,
                sums);
    expect_near(conv2d_backward_weight(dy, x, c.weight, c.options), expected.dweight, rounding,
                sums);
    expect_near(conv_backward_bias(dy), expected.dbias, rounding, sums);
    if (dtype == DType::f64) continue;
    expect_near(conv2d_backward_weight(dy, x, c.weight, c.options, DType::f32), expected.dweight,
                1e-6, sums);
    expect_near(conv_backward_bias(dy, DType::f32), expected.dbias, 1e-6, sums);
  }
}

TEST_P(ConvOfType, OneAxisIsARowOfTwo) {
  const DType dtype = GetParam();
  const Tensor x = random_tensor({2, 4, 15}, dtype, 1);
  for (const int64_t groups : {1, 2, 4}) {
    const Tensor weight = random_tensor({4, 4 / groups, 3}, dtype, 2);
    const Tensor bias = random_tensor({4}, dtype, 3);
    const Conv1dOptions options{.stride = 2, .padding = 1, .dilation = 2, .groups = groups};
    const Conv2dOptions wide{
        .stride = {1, 2}, .padding = {0, 1}, .dilation = {1, 2}, .groups = groups};
    const Tensor y = conv1d(x, weight, bias, options);
    EXPECT_EQ(y.shape(), (Shape{2, 4, 7}));
    EXPECT_EQ(y.to_vector<double>(),
              conv2d(x.unsqueeze(2), weight.unsqueeze(2), bias, wide).to_vector<double>());
    EXPECT_EQ(conv1d_backward_input(y, weight, x.shape(), options).to_vector<double>(),
              conv2d_backward_input(y.unsqueeze(2), weight.unsqueeze(2), {2, 4, 1, 15}, wide)
                  .to_vector<double>());
    EXPECT_EQ(conv1d_backward_weight(y, x, weight.shape(), options).shape(), weight.shape());
  }
}

TEST_P(ConvOfType, DoesNotDependOnTheNumberOfThreads) {
  const DType dtype = GetParam();
  const int threads = num_threads();
  for (const Case& c : {kCases[2], kCases[5], kCases[6], kCases[11], kCases[12]}) {
    const Tensor x = random_tensor(c.x, dtype, 1), weight = random_tensor(c.weight, dtype, 2);
    std::vector<std::vector<double>> runs;
    for (const int count : {1, 2, 3}) {
      set_num_threads(count);
      const Tensor y = conv2d(x, weight, {}, c.options);
      std::vector<double> all = y.to_vector<double>();
      for (const Tensor& part : {conv2d_backward_input(y, weight, c.x, c.options),
                                 conv2d_backward_weight(y, x, c.weight, c.options)}) {
        const std::vector<double> values = part.to_vector<double>();
        all.insert(all.end(), values.begin(), values.end());
      }
      runs.push_back(all);
    }
    set_num_threads(threads);
    EXPECT_EQ(runs[0], runs[1]) << to_string(c.x);
    EXPECT_EQ(runs[0], runs[2]) << to_string(c.x);
  }
}

TEST(Conv, MasterWeightsOfF32) {
  const Tensor x = random_tensor({2, 3, 8, 8}, DType::bf16, 1);
  const Tensor weight = random_tensor({4, 3, 3, 3}, DType::f32, 2);
  const Tensor bias = random_tensor({4}, DType::f32, 3);
  const Tensor y = conv2d(x, weight, bias);
  EXPECT_EQ(y.dtype(), DType::bf16);
  EXPECT_EQ(y.to_vector<float>(), conv2d(x, weight.to(DType::bf16), bias).to_vector<float>());
}

TEST(Conv, EmptySizes) {
  EXPECT_EQ(conv2d(empty({0, 3, 5, 5}), empty({4, 3, 3, 3})).shape(), (Shape{0, 4, 3, 3}));
  EXPECT_EQ(conv2d(empty({2, 3, 5, 5}), empty({0, 3, 3, 3})).numel(), 0);
  const Tensor y = conv2d(empty({1, 0, 2, 2}), empty({1, 0, 2, 2}), ones({1}));
  EXPECT_EQ(y.to_vector<float>(), std::vector<float>{1});
  EXPECT_EQ(conv2d_backward_weight(empty({0, 4, 3, 3}), empty({0, 3, 5, 5}), {4, 3, 3, 3})
                .to_vector<float>(),
            std::vector<float>(108, 0.0f));
  EXPECT_EQ(conv2d_backward_input(empty({1, 0, 1, 1}), empty({0, 1, 2, 2}), {1, 1, 2, 2})
                .to_vector<float>(),
            std::vector<float>(4, 0.0f));
  EXPECT_EQ(conv1d(empty({0, 3, 5}), empty({4, 3, 3})).shape(), (Shape{0, 4, 3}));
}

TEST(Conv, RefusesWhatDoesNotFit) {
  const Tensor x = zeros({1, 4, 5, 5}), weight = zeros({4, 4, 3, 3});
  EXPECT_THROW(conv2d(zeros({4, 5, 5}), weight), ShapeError);
  EXPECT_THROW(conv2d(x, zeros({4, 3, 3, 3})), ShapeError);
  EXPECT_THROW(conv2d(x, zeros({4, 4, 6, 3})), ShapeError);
  EXPECT_THROW(conv2d(x, zeros({4, 4, 0, 3})), ShapeError);
  EXPECT_THROW(conv2d(x, zeros({3, 2, 3, 3}), {}, {.groups = 2}), ShapeError);
  EXPECT_THROW(conv2d(x, weight, zeros({3})), ShapeError);
  EXPECT_THROW(conv2d(Tensor(), weight), ShapeError);
  EXPECT_THROW(conv2d(x, Tensor()), ShapeError);
  EXPECT_THROW(conv2d(x, weight, {}, {.stride = {0, 1}}), ConfigError);
  EXPECT_THROW(conv2d(x, weight, {}, {.padding = {0, -1}}), ConfigError);
  EXPECT_THROW(conv2d(x, weight, {}, {.dilation = {1, int64_t{1} << 62}}), ConfigError);
  EXPECT_THROW(conv2d(x, weight, {}, {.groups = 0}), ConfigError);
  EXPECT_THROW(conv2d(x, zeros({4, 4, 3, 3}, DType::f64)), DTypeError);
  EXPECT_THROW(conv2d(zeros({1, 4, 5, 5}, DType::i64), zeros({4, 4, 3, 3}, DType::i64)),
               DTypeError);
  EXPECT_THROW(conv2d_backward_input(zeros({1, 4, 5, 5}), weight, x.shape()), ShapeError);
  EXPECT_THROW(conv2d_backward_weight(zeros({1, 4, 5, 5}), x, weight.shape()), ShapeError);
  EXPECT_THROW(conv_backward_bias(zeros({3})), ShapeError);
  EXPECT_THROW(conv1d(x, weight), ShapeError);
  try {
    conv2d(x, zeros({4, 3, 3, 3}));
  } catch (const ShapeError& error) {
    EXPECT_NE(std::string(error.what()).find("[4, 3, 3, 3]"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace weft
