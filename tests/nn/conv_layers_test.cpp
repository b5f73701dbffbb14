#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "weft/autograd/grad_check.h"
#include "weft/nn/batch_norm.h"
#include "weft/nn/conv.h"
#include "weft/nn/pool.h"
#include "weft/nn/sequential.h"
#include "weft/tensor/error.h"
#include "weft/tensor/ops/random.h"

namespace weft::nn {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

Tensor random_tensor(const Shape& shape, uint64_t seed) {
  Generator generator(seed);
  Tensor x = empty(shape, DType::f64);
  normal_(x, 0.0, 1.0, generator);
  return x;
}

/// Gradients of the output with respect to the input and all parameters, in f64.
void expect_gradients(Layer& layer, const Shape& input_shape) {
  layer.to(DType::f64);
  std::vector<Variable> inputs = layer.parameters();
  inputs.insert(inputs.begin(), Variable(random_tensor(input_shape, 3), true));
  const auto result = autograd::grad_check(
      [&](const std::vector<Variable>& in) { return layer.forward(in[0]); }, inputs);
  EXPECT_TRUE(result) << layer.to_string() << result.message;
}

Shape output_shape(Layer& layer, const Shape& input_shape) {
  return layer(Variable(ones(input_shape))).shape();
}

template <class Make>
void expect_config_error(Make make, const std::string& message_part) {
  try {
    make();
    ADD_FAILURE() << "expected a ConfigError about \"" << message_part << "\"";
  } catch (const ConfigError& error) {
    EXPECT_THAT(error.what(), HasSubstr(message_part));
  }
}

TEST(ConvLayers, GradientsOfEveryLayer) {
  Generator generator(1);
  Conv2d plain(2, 3, generator);
  expect_gradients(plain, {2, 2, 5, 4});
  Conv2d ragged(
      4, 6, generator,
      {.kernel = {3, 2}, .stride = {2, 1}, .padding = {1, 2}, .dilation = {1, 2}, .groups = 2});
  expect_gradients(ragged, {1, 4, 5, 7});
  Conv2d depthwise(3, 3, generator, {.padding = {1, 1}, .groups = 3, .bias = false});
  expect_gradients(depthwise, {2, 3, 4, 5});
  Conv1d along_time(4, 2, generator, {.kernel = 3, .stride = 2, .padding = 1, .groups = 2});
  expect_gradients(along_time, {2, 4, 7});
  MaxPool2d max_2d({.kernel = {3, 2}, .stride = {2, 1}, .padding = {1, 0}});
  expect_gradients(max_2d, {2, 2, 5, 4});
  AvgPool2d avg_2d({.kernel = {2, 3}, .stride = {1, 2}, .padding = {1, 1}});
  expect_gradients(avg_2d, {2, 2, 5, 4});
  AvgPool2d without_padding({.kernel = {3, 3}, .padding = {1, 1}, .count_padding = false});
  expect_gradients(without_padding, {1, 2, 7, 5});
  MaxPool1d max_1d;
  expect_gradients(max_1d, {2, 3, 7});
  AvgPool1d avg_1d({.kernel = 3, .stride = 1, .padding = 1});
  expect_gradients(avg_1d, {2, 3, 5});
}

TEST(ConvLayers, GradientsOfBatchNormInBothModes) {
  for (const bool training : {true, false}) {
    for (const Shape& shape : {Shape{7, 3}, Shape{3, 3, 5}, Shape{2, 3, 2, 4}}) {
      BatchNorm norm(3);
      norm(
          Variable(random_tensor({5, 3, 2}, 9).to(DType::f32)));  // statistics that are not 0 and 1
      norm.train(training);
      expect_gradients(norm, shape);
      BatchNorm without_affine(3, {.affine = false});
      without_affine.train(training);
      expect_gradients(without_affine, shape);
    }
  }
}

TEST(ConvLayers, OutputShapes) {
  Generator generator(1);
  Conv2d conv_2d(1, 8, generator, {.kernel = {5, 3}, .stride = {2, 1}, .padding = {2, 1}});
  EXPECT_EQ(output_shape(conv_2d, {3, 1, 28, 15}), (Shape{3, 8, 14, 15}));
  Conv1d conv_1d(4, 6, generator, {.kernel = 3, .stride = 2, .dilation = 2, .groups = 2});
  EXPECT_EQ(output_shape(conv_1d, {2, 4, 111}), (Shape{2, 6, 54}));
  MaxPool2d max_2d;
  EXPECT_EQ(output_shape(max_2d, {2, 3, 15, 8}), (Shape{2, 3, 7, 4}));
  AvgPool2d avg_2d({.kernel = {3, 3}, .stride = {1, 2}, .padding = {1, 1}});
  EXPECT_EQ(output_shape(avg_2d, {2, 3, 15, 8}), (Shape{2, 3, 15, 4}));
  MaxPool1d max_1d({.kernel = 3});
  EXPECT_EQ(output_shape(max_1d, {1, 2, 63}), (Shape{1, 2, 21}));
  AvgPool1d avg_1d({.kernel = 2, .stride = 1});
  EXPECT_EQ(output_shape(avg_1d, {1, 2, 63}), (Shape{1, 2, 62}));
  EXPECT_THROW(output_shape(conv_2d, {3, 2, 28, 15}), ShapeError);
  EXPECT_THROW(output_shape(conv_1d, {2, 4, 4}), ShapeError);
  EXPECT_THROW(output_shape(max_2d, {2, 3, 15}), ShapeError);
}

/// The options of a convolution reach its op: values against the sum as the docstring states it.
TEST(Conv2d, EqualsItsDefinition) {
  Generator generator(2);
  const Conv2dLayerOptions options{
      .kernel = {3, 2}, .stride = {2, 1}, .padding = {1, 1}, .dilation = {1, 2}, .groups = 2};
  Conv2d layer(4, 6, generator, options);
  layer.to(DType::f64);
  const Shape shape{2, 4, 6, 5};
  const Tensor input = random_tensor(shape, 4);
  const Tensor output = layer(Variable(input)).data();
  ASSERT_EQ(output.shape(), (Shape{2, 6, 3, 5}));
  const auto at = [](const Tensor& tensor, int64_t i, int64_t j, int64_t k, int64_t l) {
    return tensor.select(0, i).select(0, j).select(0, k).select(0, l).item<double>();
  };
  for (int64_t n = 0; n < 2; ++n) {
    for (int64_t o = 0; o < 6; ++o) {
      for (int64_t row = 0; row < 3; ++row) {
        for (int64_t column = 0; column < 5; ++column) {
          double expected = layer.bias.data().select(0, o).item<double>();
          for (int64_t c = 0; c < 2; ++c) {
            for (int64_t i = 0; i < 3; ++i) {
              for (int64_t j = 0; j < 2; ++j) {
                const int64_t y = 2 * row - 1 + i;
                const int64_t x = column - 1 + 2 * j;
                if (y < 0 || y >= 6 || x < 0 || x >= 5) continue;
                expected += at(layer.weight.data(), o, c, i, j) * at(input, n, o / 3 * 2 + c, y, x);
              }
            }
          }
          EXPECT_NEAR(at(output, n, o, row, column), expected, 1e-12);
        }
      }
    }
  }
}

TEST(Conv2d, InitialValues) {
  Generator generator(1);
  const Conv2d uniform(16, 32, generator);  // fan_in 144
  double largest = 0;
  for (const float value : uniform.weight.data().to_vector<float>())
    largest = std::max(largest, std::abs(static_cast<double>(value)));
  EXPECT_LE(largest, 1.0 / 12);
  EXPECT_GT(largest, 0.95 / 12);
  for (const float value : uniform.bias.data().to_vector<float>())
    EXPECT_LE(std::abs(value), 1.0 / 12);

  const Conv2d depthwise(16, 16, generator, {.groups = 16});  // fan_in 9
  largest = 0;
  for (const float value : depthwise.weight.data().to_vector<float>())
    largest = std::max(largest, std::abs(static_cast<double>(value)));
  EXPECT_GT(largest, 0.9 / 3);

  const Conv2d kaiming(16, 32, generator, {.kaiming_init = true});
  double squares = 0;
  for (const float value : kaiming.weight.data().to_vector<float>())
    squares += static_cast<double>(value) * value;
  EXPECT_NEAR(std::sqrt(squares / static_cast<double>(kaiming.weight.numel())),
              std::sqrt(2.0 / 144), 0.01);
  EXPECT_EQ(kaiming.bias.data().to_vector<float>(), std::vector<float>(32, 0.0f));

  Generator a(5), b(5), c(6);
  const Conv1d first(3, 4, a), again(3, 4, b), other(3, 4, c);
  EXPECT_EQ(first.weight.data().to_vector<float>(), again.weight.data().to_vector<float>());
  EXPECT_NE(first.weight.data().to_vector<float>(), other.weight.data().to_vector<float>());
}

TEST(ConvLayers, BadOptionsNameTheLayerAndTheValue) {
  Generator generator(1);
  expect_config_error([&] { Conv2d(0, 2, generator); },
                      "Conv2d: channels must be at least 1, got 0");
  expect_config_error([&] { Conv2d(4, 6, generator, {.groups = 3}); },
                      "Conv2d: groups must divide the channels 4 -> 6, got 3");
  expect_config_error([&] { Conv2d(1, 1, generator, {.kernel = {3, 0}}); }, "got 0, 1 and 1");
  expect_config_error(
      [&] {
        Conv2d(1, 1, generator, {.padding = {0, -1}});
      },
      "Conv2d: padding must not be negative, got -1");
  expect_config_error([&] { Conv1d(1, 1, generator, {.stride = 0}); }, "got 3, 0 and 1");
  expect_config_error([&] { Conv1d(1, 1, generator, {.groups = 0}); }, "Conv1d: groups");
  expect_config_error(
      [&] {
        MaxPool2d({.kernel = {2, 0}});
      },
      "MaxPool2d: kernel must be at least 1, got 0");
  expect_config_error([&] { AvgPool2d({.stride = {-1, 1}}); }, "AvgPool2d: stride");
  expect_config_error([&] { MaxPool1d({.kernel = 3, .padding = 2}); },
                      "MaxPool1d: padding must be 0 to half the kernel of 3, got 2");
  expect_config_error([&] { AvgPool1d({.padding = -1}); }, "AvgPool1d: padding");
  expect_config_error([&] { BatchNorm(0); }, "BatchNorm: channels must be at least 1, got 0");
  expect_config_error([&] { BatchNorm(2, {.eps = -1}); }, "BatchNorm: eps");
  expect_config_error([&] { BatchNorm(2, {.momentum = 1.5}); },
                      "BatchNorm: momentum must be 0 to 1, got 1.5");
}

TEST(BatchNorm, NormalisesByTheBatchThenByTheRunningStatistics) {
  BatchNorm norm(2, {.eps = 0, .momentum = 0.25});
  norm.to(DType::f64);
  norm.weight.mutable_data().copy_(from_vector<double>({1, 2}, {2}));
  norm.bias.mutable_data().copy_(from_vector<double>({0, 10}, {2}));
  // Channel 0 has mean 3 and variance 4 (16/3 unbiased), channel 1 mean 0 and variance 1 (4/3).
  const Variable x(from_vector<double>({1, -1, 5, 1, 1, 1, 5, -1}, {4, 2}));
  EXPECT_THAT(norm(x).data().to_vector<double>(), ElementsAre(-1, 8, 1, 12, -1, 12, 1, 8));
  EXPECT_THAT(norm.running_mean().to_vector<double>(), ElementsAre(0.75, 0));
  EXPECT_DOUBLE_EQ(norm.running_var().to_vector<double>()[0], 0.75 + 0.25 * 16 / 3);
  EXPECT_DOUBLE_EQ(norm.running_var().to_vector<double>()[1], 0.75 + 0.25 * 4 / 3);
  EXPECT_EQ(norm.num_batches_tracked(), 1);

  norm.eval();
  const std::vector<double> y = norm(x).data().to_vector<double>();
  EXPECT_DOUBLE_EQ(y[0], (1 - 0.75) / std::sqrt(0.75 + 0.25 * 16 / 3));
  EXPECT_DOUBLE_EQ(y[1], 2 * (-1 - 0.0) / std::sqrt(0.75 + 0.25 * 4 / 3) + 10);
  EXPECT_EQ(norm.num_batches_tracked(), 1);
  EXPECT_THAT(norm.running_mean().to_vector<double>(), ElementsAre(0.75, 0));
  const Variable single(from_vector<double>({1, -1}, {1, 2}));
  EXPECT_EQ(norm(single).data().to_vector<double>(), std::vector<double>(y.begin(), y.begin() + 2));

  norm.train();
  EXPECT_THROW(norm(single), ShapeError);
  EXPECT_THROW(norm(Variable(ones({4, 3}, DType::f64))), ShapeError);
  EXPECT_EQ(norm.num_batches_tracked(), 1);
  EXPECT_THAT(norm.running_mean().to_vector<double>(), ElementsAre(0.75, 0));
}

TEST(BatchNorm, WithoutMomentumAveragesAllBatches) {
  BatchNorm norm(1, {.momentum = std::nullopt, .affine = false});
  for (const float mean : {2.0f, 4.0f, 9.0f})
    norm(Variable(from_vector<float>({mean - 1, mean + 1}, {2, 1})));
  EXPECT_FLOAT_EQ(norm.running_mean().item<float>(), 5);
  EXPECT_FLOAT_EQ(norm.running_var().item<float>(), 2);
  EXPECT_TRUE(norm.parameters().empty());
}

TEST(BatchNorm, StateDictHasTheUsualNamesAndRestoresEvalOutputs) {
  const auto names = [](const Module& module) {
    std::vector<std::string> result;
    for (const auto& entry : module.state_dict()) result.push_back(entry.name);
    std::sort(result.begin(), result.end());
    return result;
  };
  Generator generator(1);
  Sequential net, copy;
  for (Sequential* each : {&net, &copy}) {
    each->add<Conv2d>(1, 2, generator);
    each->add<BatchNorm>(2);
    each->add<MaxPool2d>();
  }
  EXPECT_THAT(names(net), ElementsAre("0.bias", "0.weight", "1.bias", "1.num_batches_tracked",
                                      "1.running_mean", "1.running_var", "1.weight"));
  EXPECT_EQ(net.named_parameters().size(), 4u);

  const Variable x(random_tensor({3, 1, 6, 7}, 8).to(DType::f32));
  net(x);
  copy.load_state_dict(net.state_dict());
  net.eval();
  copy.eval();
  EXPECT_EQ(net(x).data().to_vector<float>(), copy(x).data().to_vector<float>());
  EXPECT_EQ(copy.state_dict().size(), 7u);
}

TEST(BatchNorm, KeepsWideStatisticsInABf16Model) {
  BatchNorm norm(2);
  norm.to(DType::bf16);
  EXPECT_EQ(norm.running_mean().dtype(), DType::bf16);
  const Variable x(random_tensor({64, 2}, 8).to(DType::bf16));
  EXPECT_EQ(norm(x).dtype(), DType::bf16);
  EXPECT_EQ(norm.running_mean().dtype(), DType::f32);
  norm.eval();
  EXPECT_EQ(norm(x).dtype(), DType::bf16);
}

TEST(ConvLayers, DescribeThemselves) {
  Generator generator(1);
  Sequential net;
  net.add<Conv2d>(1, 8, generator, Conv2dLayerOptions{.kernel = {5, 3}, .bias = false});
  net.add<Conv1d>(4, 8, generator, Conv1dLayerOptions{.groups = 4});
  net.add<BatchNorm>(8, BatchNormOptions{.momentum = std::nullopt});
  net.add<MaxPool2d>();
  net.add<AvgPool1d>();
  EXPECT_EQ(
      net.to_string(),
      "Sequential()\n"
      "  (0) Conv2d(in=1, out=8, kernel=5x3, stride=1x1, padding=0x0, dilation=1x1, groups=1, "
      "bias=false)\n"
      "  (1) Conv1d(in=4, out=8, kernel=3, stride=1, padding=0, dilation=1, groups=4, "
      "bias=true)\n"
      "  (2) BatchNorm(channels=8, eps=1e-05, momentum=none, affine=true)\n"
      "  (3) MaxPool2d(kernel=2x2, stride=2x2, padding=0x0)\n"
      "  (4) AvgPool1d(kernel=2, stride=2, padding=0, count_padding=true)\n");
}

}  // namespace
}  // namespace weft::nn
