#include <cmath>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "weft/autograd/functions/activation.h"
#include "weft/autograd/functions/linear.h"
#include "weft/autograd/functions/unary.h"
#include "weft/autograd/grad_check.h"
#include "weft/nn/dropout.h"
#include "weft/nn/embedding.h"
#include "weft/nn/init.h"
#include "weft/nn/linear.h"
#include "weft/nn/mlp.h"
#include "weft/nn/norm.h"
#include "weft/nn/sequential.h"
#include "weft/tensor/error.h"
#include "weft/tensor/ops/random.h"

namespace weft::nn {
namespace {

Tensor random_tensor(const Shape& shape, uint64_t seed) {
  Generator generator(seed);
  Tensor x = empty(shape, DType::f64);
  normal_(x, 0.0, 1.0, generator);
  return x;
}

/// Checks the gradients of a layer's output with respect to its input and all its parameters, in
/// f64.
template <class L>
void expect_gradients(L& layer, const Shape& input_shape) {
  layer.to(DType::f64);
  std::vector<Variable> inputs = layer.parameters();
  inputs.insert(inputs.begin(), Variable(random_tensor(input_shape, 3), true));
  const auto result = autograd::grad_check(
      [&](const std::vector<Variable>& in) { return layer.forward(in[0]); }, inputs);
  EXPECT_TRUE(result) << layer.to_string() << result.message;
}

TEST(Layers, GradientsOfEveryLayer) {
  Generator generator(1);
  Linear with_bias(3, 5, generator);
  expect_gradients(with_bias, {2, 4, 3});
  Linear without_bias(3, 1, generator, {.bias = false});
  expect_gradients(without_bias, {7, 3});
  RMSNorm rms_norm(5);
  expect_gradients(rms_norm, {2, 3, 5});
  LayerNorm layer_norm(5);
  expect_gradients(layer_norm, {2, 3, 5});
  SwigluMlp swiglu(4, 6, generator, {.std = 0.5, .output_std = 0.5});
  expect_gradients(swiglu, {2, 3, 4});
  GeluMlp gelu(4, 6, generator, {.std = 0.5, .output_std = 0.5});
  expect_gradients(gelu, {2, 3, 4});
  GeluMlp gelu_tanh(4, 6, generator, {.std = 0.5, .output_std = 0.5}, Gelu::tanh);
  expect_gradients(gelu_tanh, {2, 3, 4});
  ReluMlp relu(4, 6, generator, {.std = 0.5, .output_std = 0.5});
  expect_gradients(relu, {2, 3, 4});
}

TEST(GeluMlp, IsExactUnlessToldOtherwise) {
  Generator a(1), b(1), c(1);
  GeluMlp standard(4, 6, a, {.std = 2, .output_std = 2});
  GeluMlp exact(4, 6, b, {.std = 2, .output_std = 2}, Gelu::exact);
  GeluMlp by_tanh(4, 6, c, {.std = 2, .output_std = 2}, Gelu::tanh);
  const Variable x(random_tensor({5, 4}, 2).to(DType::f32));
  const auto values = [&](Layer& layer, Gelu form) {
    const Variable hidden = autograd::gelu(
        autograd::linear(x, layer.parameter("up_proj.weight"), layer.parameter("up_proj.bias")),
        form);
    const Variable expected = autograd::linear(hidden, layer.parameter("down_proj.weight"),
                                               layer.parameter("down_proj.bias"));
    EXPECT_EQ(layer(x).data().to_vector<float>(), expected.data().to_vector<float>());
    return layer(x).data().to_vector<float>();
  };
  EXPECT_EQ(values(standard, Gelu::exact), values(exact, Gelu::exact));
  EXPECT_NE(values(by_tanh, Gelu::tanh), values(exact, Gelu::exact));
  EXPECT_THAT(by_tanh.to_string(), testing::HasSubstr("activation=gelu_tanh"));
}

TEST(Linear, ComputesXWTransposedPlusB) {
  Generator generator(1);
  Linear layer(2, 2, generator);
  layer.weight.mutable_data().copy_(from_vector<float>({1, 2, 3, 4}, {2, 2}));
  layer.bias.mutable_data().copy_(from_vector<float>({10, 20}, {2}));
  const Variable y = layer(Variable(from_vector<float>({1, -1}, {1, 2})));
  EXPECT_EQ(y.data().to_vector<float>(), (std::vector<float>{9, 19}));
  EXPECT_THROW(layer(Variable(ones({1, 3}))), ShapeError);
  EXPECT_THROW(Linear(0, 2, generator), ConfigError);
}

TEST(Linear, StartsFromItsGeneratorAlone) {
  Generator a(5), b(5), c(6);
  const Linear first(8, 8, a), again(8, 8, b), other(8, 8, c);
  EXPECT_EQ(first.weight.data().to_vector<float>(), again.weight.data().to_vector<float>());
  EXPECT_NE(first.weight.data().to_vector<float>(), other.weight.data().to_vector<float>());
}

TEST(RMSNorm, ResidualFormEqualsNormOfTheSum) {
  RMSNorm norm(6);
  norm.weight.mutable_data().copy_(from_vector<float>({1, 2, 3, 4, 5, 6}, {6}));
  const Variable x(random_tensor({3, 6}, 1).to(DType::f32));
  const Variable residual(random_tensor({3, 6}, 2).to(DType::f32));
  const auto [sum, normed] = norm.forward_with_residual(x, residual);
  EXPECT_EQ(norm(sum).data().to_vector<float>(), normed.data().to_vector<float>());
  for (int i = 0; i < 18; ++i) {
    const auto at = static_cast<size_t>(i);
    EXPECT_FLOAT_EQ(sum.data().to_vector<float>()[at],
                    x.data().to_vector<float>()[at] + residual.data().to_vector<float>()[at]);
  }
}

TEST(Embedding, LooksUpRowsAndAddsUpTheirGradients) {
  Generator generator(1);
  Embedding table(4, 3, generator);
  table.to(DType::f64);
  const Tensor ids = from_vector<int64_t>({1, 3, 1}, {1, 3});
  const Variable rows = table.forward(ids);
  EXPECT_EQ(rows.shape(), (Shape{1, 3, 3}));
  EXPECT_EQ(rows.data().select(1, 2).to_vector<double>(),
            table.weight.data().select(0, 1).flatten().to_vector<double>());
  rows.backward(ones({1, 3, 3}, DType::f64));
  EXPECT_EQ(table.weight.grad().to_vector<double>(),
            (std::vector<double>{0, 0, 0, 2, 2, 2, 0, 0, 0, 1, 1, 1}));
  EXPECT_THROW(table.forward(from_vector<int64_t>({4}, {1})), IndexError);
  EXPECT_THROW(table.forward(from_vector<int64_t>({-1}, {1})), IndexError);
}

TEST(Dropout, ScalesWhatItKeepsAndRestsInEvalMode) {
  Generator generator(3);
  Dropout dropout(0.25, generator);
  const Variable x(ones({10000}));
  const std::vector<float> y = dropout(x).data().to_vector<float>();
  int kept = 0;
  for (float value : y) {
    EXPECT_TRUE(value == 0 || std::abs(value - 4.0f / 3.0f) < 1e-6f) << value;
    kept += value != 0;
  }
  EXPECT_NEAR(kept, 7500, 200);
  dropout.eval();
  EXPECT_EQ(dropout(x).data().storage(), x.data().storage());
  EXPECT_THROW(Dropout(1.0, generator), ConfigError);
}

TEST(Sequential, ChainsItsLayersAndNamesTheirParameters) {
  Generator generator(1);
  Sequential net;
  net.add<Linear>(2, 8, generator);
  net.add<Lambda>("Tanh", [](const Variable& x) { return autograd::tanh(x); });
  net.add<Linear>(8, 1, generator);
  EXPECT_EQ(net.forward(Variable(ones({5, 2}))).shape(), (Shape{5, 1}));
  EXPECT_EQ(net.named_parameters().back().name, "2.bias");
  expect_gradients(net, {3, 2});
}

TEST(Init, FansAndSpreads) {
  const init::Fans f = init::fans(empty({6, 3, 5, 5}));
  EXPECT_EQ(f.in, 75);
  EXPECT_EQ(f.out, 150);
  EXPECT_THROW(init::fans(empty({3})), ShapeError);
  Generator generator(1);
  const auto spread = [](const Tensor& t) {
    double sum = 0;
    double largest = 0;
    for (float v : t.to_vector<float>()) {
      sum += static_cast<double>(v) * v;
      largest = std::max(largest, std::abs(static_cast<double>(v)));
    }
    return std::pair(std::sqrt(sum / static_cast<double>(t.numel())), largest);
  };
  const Shape shape{300, 200};
  EXPECT_NEAR(spread(init::xavier_uniform(empty(shape), generator)).first, std::sqrt(2.0 / 500),
              1e-3);
  EXPECT_LE(spread(init::xavier_uniform(empty(shape), generator)).second, std::sqrt(6.0 / 500));
  EXPECT_NEAR(spread(init::xavier_normal(empty(shape), generator)).first, std::sqrt(2.0 / 500),
              1e-3);
  EXPECT_NEAR(spread(init::kaiming_normal(empty(shape), generator)).first, std::sqrt(2.0 / 200),
              1e-3);
  EXPECT_LE(spread(init::kaiming_uniform(empty(shape), generator)).second, std::sqrt(6.0 / 200));
}

}  // namespace
}  // namespace weft::nn
