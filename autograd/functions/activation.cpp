#include "weft/autograd/functions/activation.h"

#include "weft/autograd/node.h"

namespace weft::autograd {

Variable silu(const Variable& x) {
  return record("silu", weft::silu(x.data()), {x},
                [x = SavedTensor(x.data())](const Tensor& dy) -> std::vector<Tensor> {
                  return {silu_backward(dy, x.get())};
                });
}

Variable gelu(const Variable& x, Gelu form) {
  return record("gelu", weft::gelu(x.data(), form), {x},
                [x = SavedTensor(x.data()), form](const Tensor& dy) -> std::vector<Tensor> {
                  return {gelu_backward(dy, x.get(), form)};
                });
}

Variable swiglu(const Variable& gate, const Variable& up) {
  return record("swiglu", weft::swiglu(gate.data(), up.data()), {gate, up},
                [gate = SavedTensor(gate.data()),
                 up = SavedTensor(up.data())](const Tensor& dy) -> std::vector<Tensor> {
                  SwigluGrads grads = swiglu_backward(dy, gate.get(), up.get());
                  return {grads.dgate, grads.dup};
                });
}

Variable swiglu_packed(const Variable& packed) {
  return record("swiglu_packed", weft::swiglu_packed(packed.data()), {packed},
                [packed = SavedTensor(packed.data())](const Tensor& dy) -> std::vector<Tensor> {
                  return {swiglu_packed_backward(dy, packed.get())};
                });
}

}  // namespace weft::autograd
