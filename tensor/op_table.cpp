#include "weft/tensor/op_table.h"

#include "ops/op_list.h"

namespace weft {

const OpTable& op_table() {
  static const OpTable table = [] {
    OpTable table;
    list_activation_ops(table);
    list_arithmetic_ops(table);
    list_batch_norm_ops(table);
    list_compare_ops(table);
    list_conv_ops(table);
    list_copy_ops(table);
    list_cross_entropy_ops(table);
    list_cumsum_ops(table);
    list_dropout_ops(table);
    list_embedding_ops(table);
    list_gather_ops(table);
    list_layer_norm_ops(table);
    list_linear_activation_ops(table);
    list_linear_ops(table);
    list_matmul_ops(table);
    list_next_token_ops(table);
    list_pool_ops(table);
    list_random_ops(table);
    list_reduce_ops(table);
    list_rms_norm_ops(table);
    list_rope_ops(table);
    list_softmax_ops(table);
    list_topk_ops(table);
    list_unary_ops(table);
    return table;
  }();
  return table;
}

}  // namespace weft
