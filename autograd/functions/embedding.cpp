#include "weft/autograd/functions/embedding.h"

#include "weft/autograd/node.h"
#include "weft/tensor/ops/embedding.h"

namespace weft::autograd {

Variable embedding(const Variable& table, const Tensor& ids) {
  return record("embedding", weft::embedding(table.data(), ids), {table},
                [ids = SavedTensor(ids),
                 vocabulary = table.size(0)](const Tensor& dy) -> std::vector<Tensor> {
                  return {embedding_backward(dy, ids.get(), vocabulary)};
                });
}

}  // namespace weft::autograd
