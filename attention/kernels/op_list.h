#pragma once

#include "weft/tensor/op_table.h"

namespace weft::attention {

// Each primitive lists itself; op_table() collects them.
void list_block_pool_ops(OpTable& table);
void list_block_selection_ops(OpTable& table);
void list_gated_sum_ops(OpTable& table);
void list_flash_attention_ops(OpTable& table);
void list_latent_attention_ops(OpTable& table);
void list_scored_attention_ops(OpTable& table);
void list_selected_attention_ops(OpTable& table);
void list_selection_operations_ops(OpTable& table);

}  // namespace weft::attention
