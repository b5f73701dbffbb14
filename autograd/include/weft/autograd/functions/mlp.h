#pragma once

#include "weft/autograd/variable.h"
#include "weft/tensor/ops/linear_activation.h"

namespace weft::autograd {

/// The parameters of an MLP with one hidden layer of F features. Undefined biases mean none.
struct MlpParameters {
  Variable up;         // [F, K]
  Variable up_bias;    // [F]
  Variable down;       // [E, F]
  Variable down_bias;  // [E]
};

/// linear(activation(linear(x, up, up_bias)), down, down_bias): x [..., K] -> [..., E]. As linear()
/// and the activation one after another, but that on a GPU the activation and its derivative can
/// ride on products (weft/tensor/ops/linear_activation.h). Saves x, the weights, the hidden
/// features and what the derivative is had from: for gelu as much again, for relu a bit a feature
/// or nothing.
Variable mlp(const Variable& x, const MlpParameters& parameters, HiddenActivation activation);

}  // namespace weft::autograd
