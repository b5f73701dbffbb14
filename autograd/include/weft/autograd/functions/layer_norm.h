#pragma once

#include "weft/autograd/variable.h"

namespace weft::autograd {

/// weft::layer_norm; saves x and two numbers a row. An undefined bias means none.
Variable layer_norm(const Variable& x, const Variable& gain, const Variable& bias = {},
                    double eps = 1e-5);

}  // namespace weft::autograd
