#pragma once

#include "weft/tensor/op_table.h"

namespace weft::optim {

// Each file with kernels lists them; op_table() collects them.
void list_adamw_ops(OpTable& table);
void list_clip_ops(OpTable& table);
void list_muon_ops(OpTable& table);
void list_sgd_ops(OpTable& table);

/// Parameters that an Optimizer takes, see Optimizer::add_groups().
inline constexpr DTypeSet kParameterTypes{DType::f64, DType::f32};

}  // namespace weft::optim
