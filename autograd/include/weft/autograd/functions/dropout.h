#pragma once

#include "weft/autograd/variable.h"
#include "weft/tensor/generator.h"

namespace weft::autograd {

/// Zeroes each element with probability p and multiplies the others by 1 / (1 - p). Backward makes
/// the mask again from the generator's state, so that nothing but that state is kept. With p = 0
/// the result is x itself. Any shape, floating types; ConfigError unless 0 <= p < 1.
Variable dropout(const Variable& x, double p, Generator& generator);

}  // namespace weft::autograd
