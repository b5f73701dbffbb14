#pragma once

#include <map>
#include <string>

#include "weft/tensor/tensor.h"

namespace weft::attention::reference {

/// The parameters of a layer by the names that its module gives them.
using Parameters = std::map<std::string, Tensor>;

/// A layer's output [B, T, E] and, for the output's gradient dy, the gradients of its input and of
/// every parameter; all f64.
struct LayerResult {
  Tensor y, dx;
  Parameters gradients;
};

}  // namespace weft::attention::reference
