#pragma once

#include "weft/tensor/op_table.h"

namespace weft {

// Each family of ops lists itself; op_table() collects them.
void list_activation_ops(OpTable& table);
void list_arithmetic_ops(OpTable& table);
void list_batch_norm_ops(OpTable& table);
void list_compare_ops(OpTable& table);
void list_conv_ops(OpTable& table);
void list_copy_ops(OpTable& table);
void list_cross_entropy_ops(OpTable& table);
void list_cumsum_ops(OpTable& table);
void list_dropout_ops(OpTable& table);
void list_embedding_ops(OpTable& table);
void list_gather_ops(OpTable& table);
void list_layer_norm_ops(OpTable& table);
void list_linear_activation_ops(OpTable& table);
void list_linear_ops(OpTable& table);
void list_matmul_ops(OpTable& table);
void list_next_token_ops(OpTable& table);
void list_pool_ops(OpTable& table);
void list_random_ops(OpTable& table);
void list_reduce_ops(OpTable& table);
void list_rms_norm_ops(OpTable& table);
void list_rope_ops(OpTable& table);
void list_softmax_ops(OpTable& table);
void list_topk_ops(OpTable& table);
void list_unary_ops(OpTable& table);

}  // namespace weft
