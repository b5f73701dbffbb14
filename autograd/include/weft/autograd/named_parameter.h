#pragma once

#include <string>
#include <vector>

#include "weft/autograd/variable.h"

namespace weft::autograd {

/// A learned variable with its dotted name, as in "model.layers.0.self_attn.q_proj.weight".
struct NamedParameter {
  std::string name;
  Variable parameter;
};

using NamedParameters = std::vector<NamedParameter>;

}  // namespace weft::autograd
