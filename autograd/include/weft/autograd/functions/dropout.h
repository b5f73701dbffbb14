#pragma once

#include "weft/autograd/variable.h"
#include "weft/tensor/generator.h"

namespace weft::autograd {

/// weft::dropout; keeps the generator's state instead of a mask.
Variable dropout(const Variable& x, double p, Generator& generator);

}  // namespace weft::autograd
