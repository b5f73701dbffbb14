#pragma once

#include "weft/tensor/op_table.h"

namespace weft::attention {

/// The attention primitives.
const OpTable& op_table();

}  // namespace weft::attention
