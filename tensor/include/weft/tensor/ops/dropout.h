#pragma once

#include "weft/tensor/generator.h"
#include "weft/tensor/tensor.h"

namespace weft {

/// Zeroes each element of x (floating) with probability p and scales the others by 1 / (1 - p)
/// (Srivastava et al., "Dropout", 2014). Element i is kept when word i % 4 of Philox block offset +
/// i / 4 of `state`, times 2^-32, is at least p. Linear in x for a given state: the gradient is
/// dropout(dy, p, state), so no mask is kept. Throws DTypeError, ConfigError unless 0 <= p < 1.
Tensor dropout(const Tensor& x, double p, GeneratorState state);

/// The same, drawing the state from `generator`, which advances by (numel + 3) / 4 blocks.
Tensor dropout(const Tensor& x, double p, Generator& generator);

}  // namespace weft
