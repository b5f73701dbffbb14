#include "weft/optim/op_table.h"

#include "kernels/op_list.h"

namespace weft::optim {

const OpTable& op_table() {
  static const OpTable table = [] {
    OpTable table;
    list_adamw_ops(table);
    list_clip_ops(table);
    list_muon_ops(table);
    list_sgd_ops(table);
    return table;
  }();
  return table;
}

}  // namespace weft::optim
