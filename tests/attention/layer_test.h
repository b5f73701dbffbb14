#pragma once

#include <algorithm>
#include <functional>

#include "weft/autograd/variable.h"
#include "weft/nn/sequence_mixer.h"

#include "attention_test_data.h"
#include "reference/layer_reference.h"

namespace weft::attention::testing {

/// What rounding may do to a layer, against the oracle in f64.
inline double layer_tolerance(DType dtype) {
  return dtype == DType::f64 ? 1e-12 : dtype == DType::f32 ? 1e-5 : 4e-2;
}

/// The layer's oracle: parameters, x and dy -> output and gradients.
using LayerOracle = std::function<reference::LayerResult(const reference::Parameters& parameters,
                                                         const Tensor& x, const Tensor& dy)>;

/// Difference of a from the oracle's b, relative to the size of b's elements where that is above 1.
inline double layer_difference(const Tensor& a, const Tensor& b) {
  return largest_difference(a, b) / std::max(1.0, 3 * root_mean_square(b));
}

/// Compares output and all gradients of `layer`, whose parameters take x's type, with its oracle.
inline void expect_agrees(nn::SequenceMixer& layer, const Tensor& x, const LayerOracle& oracle,
                          int64_t position = 0) {
  layer.to(x.dtype());
  layer.zero_grad();
  const double tolerance = layer_tolerance(x.dtype());
  const Tensor dy = random_tensor(x.shape(), x.dtype(), 99);
  reference::Parameters parameters;
  for (const auto& [name, parameter] : layer.named_parameters())
    parameters[name] = parameter.data();
  const reference::LayerResult expected = oracle(parameters, x, dy);

  const autograd::Variable input(x, true);
  const autograd::Variable y = layer.forward(input, {.position = position});
  EXPECT_EQ(y.dtype(), x.dtype());
  EXPECT_LE(layer_difference(y.data(), expected.y), tolerance) << "y";
  y.backward(dy);
  EXPECT_LE(layer_difference(input.grad(), expected.dx), tolerance) << "dx";
  EXPECT_EQ(expected.gradients.size(), layer.named_parameters().size());
  for (const auto& [name, parameter] : layer.named_parameters()) {
    ASSERT_TRUE(parameter.grad().defined()) << name;
    EXPECT_LE(layer_difference(parameter.grad(), expected.gradients.at(name)), tolerance) << name;
  }
}

}  // namespace weft::attention::testing
