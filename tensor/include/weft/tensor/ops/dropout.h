#pragma once

#include "weft/tensor/generator.h"
#include "weft/tensor/tensor.h"

namespace weft {

/// Zeroes each element with probability p and multiplies the others by 1 / (1 - p) (Srivastava et
/// al., "Dropout", JMLR 2014, scaled in training). Any shape, floating types, dense result. Element
/// i in row-major order is kept where u >= p, u as in random.h; ceil(n / 4) blocks are taken from
/// the generator. With p = 0 nothing is drawn and the result is a copy. Throws ConfigError unless
/// 0 <= p < 1.
Tensor dropout(const Tensor& x, double p, Generator& generator);

/// The same with the mask of an earlier call, from the state that the generator had before it: the
/// backward of dropout is dropout of the gradient.
Tensor dropout(const Tensor& x, double p, GeneratorState state);

}  // namespace weft
