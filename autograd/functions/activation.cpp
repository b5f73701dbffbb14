#include "weft/autograd/functions/activation.h"

#include <utility>

#include "weft/autograd/node.h"
#include "weft/tensor/ops/linear.h"

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

Variable swiglu_linear(const Variable& packed, const Variable& weight) {
  Tensor y = weft::linear(weft::swiglu_packed(packed.data()), weight.data());
  return record("swiglu_linear", std::move(y), {packed, weight},
                [packed = SavedTensor(packed.data()), weight = SavedTensor(weight.data()),
                 want_dpacked = packed.requires_grad(),
                 want_dweight = weight.requires_grad()](const Tensor& dy) -> std::vector<Tensor> {
                  const DType dtype = weight.get().dtype();
                  if (!want_dpacked) {
                    const Tensor h = weft::swiglu_packed(packed.get());
                    return {Tensor(), linear_backward_weight(dy, h, dtype)};
                  }
                  Tensor dh = linear_backward_input(dy, weight.get());
                  if (!want_dweight) return {swiglu_packed_backward(dh, packed.get()), Tensor()};
                  Tensor dpacked = swiglu_packed_backward_(dh, packed.get());
                  const Tensor& h = dh;  // now
                  return {std::move(dpacked), linear_backward_weight(dy, h, dtype)};
                });
}

}  // namespace weft::autograd
