#include "weft/autograd/functions/embedding.h"

#include "weft/autograd/node.h"
#include "weft/tensor/ops/embedding.h"

namespace weft::autograd {

Variable embedding(const Variable& table, const Tensor& ids, std::optional<DType> out_dtype) {
  return record("embedding", weft::embedding(table.data(), ids, out_dtype), {table},
                [ids = SavedTensor(ids), vocabulary = table.size(0),
                 dtype = table.dtype()](const Tensor& dy) -> std::vector<Tensor> {
                  return {embedding_backward(dy, ids.get(), vocabulary, dtype)};
                });
}

}  // namespace weft::autograd
