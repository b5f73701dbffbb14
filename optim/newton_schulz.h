#pragma once

#include "weft/tensor/tensor.h"

namespace weft::optim {

/// Brings the singular values of matrices [..., M, N] of Frobenius norm 1 or less near 1 by `steps`
/// iterations of the quintic polynomial of Muon; those below about 0.01 stay smaller. Products run
/// in the type of `x`, on the shorter side of the matrices. Overwrites `x`; returns it or another
/// tensor.
Tensor newton_schulz(Tensor x, int steps);

}  // namespace weft::optim
