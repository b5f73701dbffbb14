#include "weft/autograd/functions/dropout.h"

#include "weft/autograd/node.h"
#include "weft/tensor/ops/dropout.h"

namespace weft::autograd {

Variable dropout(const Variable& x, double p, Generator& generator) {
  if (p == 0) return x;
  const GeneratorState state = generator.state();
  return record("dropout", weft::dropout(x.data(), p, generator), {x},
                [p, state](const Tensor& dy) -> std::vector<Tensor> {
                  return {weft::dropout(dy, p, state)};
                });
}

}  // namespace weft::autograd
