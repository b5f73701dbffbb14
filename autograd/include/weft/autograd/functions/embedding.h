#pragma once

#include "weft/autograd/variable.h"

namespace weft::autograd {

/// weft::embedding; saves the ids.
Variable embedding(const Variable& table, const Tensor& ids);

}  // namespace weft::autograd
