#include "weft/autograd/functions/cumsum.h"

#include "weft/autograd/node.h"
#include "weft/tensor/ops/cumsum.h"

namespace weft::autograd {

Variable cumsum(const Variable& x, int axis, bool exclusive, bool reverse) {
  return record("cumsum", weft::cumsum(x.data(), axis, exclusive, reverse), {x},
                [axis, exclusive, reverse](const Tensor& dy) -> std::vector<Tensor> {
                  return {weft::cumsum(dy, axis, exclusive, !reverse)};
                });
}

}  // namespace weft::autograd
