#include "weft/attention/op_table.h"

#include "kernels/op_list.h"

namespace weft::attention {

const OpTable& op_table() {
  static const OpTable table = [] {
    OpTable table;
    list_block_pool_ops(table);
    list_block_selection_ops(table);
    list_gated_sum_ops(table);
    list_flash_attention_ops(table);
    list_latent_attention_ops(table);
    list_scored_attention_ops(table);
    list_selected_attention_ops(table);
    list_selection_operations_ops(table);
    return table;
  }();
  return table;
}

}  // namespace weft::attention
