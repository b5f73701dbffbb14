// A differentiable function of your own: forward with tensor ops, one backward, and a gradient
// check against finite differences. The example is the softplus y = log(1 + exp(b x)) / b.
#include <iostream>

#include "weft/autograd/grad_check.h"
#include "weft/autograd/node.h"
#include "weft/tensor/ops/arithmetic.h"
#include "weft/tensor/ops/unary.h"

using weft::Tensor;
using weft::autograd::SavedTensor;
using weft::autograd::Variable;

namespace {

Variable softplus(const Variable& x, double sharpness) {
  // Forward, on tensors: max(x, 0) + log(1 + exp(-|b x|)) / b never overflows.
  const Tensor magnitude = weft::abs(weft::mul(x.data(), sharpness));
  const Tensor tail = weft::log1p(weft::exp(weft::neg(magnitude)));
  Tensor y = weft::add(weft::relu(x.data()), weft::div(tail, sharpness));

  // Backward: dy/dx = sigmoid(b x). Saving x is enough; SavedTensor notices if somebody changes it
  // in place.
  return weft::autograd::record(
      "softplus", y, {x},
      [saved = SavedTensor(x.data()), sharpness](const Tensor& dy) -> std::vector<Tensor> {
        return {weft::mul(dy, weft::sigmoid(weft::mul(saved.get(), sharpness)))};
      });
}

}  // namespace

int main() {
  const Variable x(weft::from_vector<double>({-30, -1, -0.1, 0.2, 2, 40}, {6}),
                   /*requires_grad=*/true);
  std::cout << "softplus = " << softplus(x, 2).data() << "\n";
  const auto check = weft::autograd::grad_check(
      [](const std::vector<Variable>& in) { return softplus(in[0], 2); }, {x});
  std::cout << (check ? "the gradient agrees with finite differences\n" : check.message + "\n");
  return check ? 0 : 1;
}
