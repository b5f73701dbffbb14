#pragma once

#include "weft/tensor/op_table.h"

namespace weft::optim {

/// The steps of the optimizers and what is done with gradients before them.
const OpTable& op_table();

}  // namespace weft::optim
