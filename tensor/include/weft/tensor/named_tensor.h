#pragma once

#include <string>
#include <vector>

#include "weft/tensor/tensor.h"

namespace weft {

/// A tensor with its dotted name, as in "model.layers.0.self_attn.q_proj.weight".
struct NamedTensor {
  std::string name;
  Tensor tensor;
};

/// What a checkpoint stores of a model or an optimizer. Names are unique.
using StateDict = std::vector<NamedTensor>;

}  // namespace weft
