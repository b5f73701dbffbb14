// Fits y = w x + b by gradient descent with an op of its own, out of the installed library alone.
#include <cmath>
#include <cstdio>
#include <vector>

#include "weft/autograd/node.h"
#include "weft/autograd/variable.h"
#include "weft/tensor/ops/arithmetic.h"
#include "weft/tensor/tensor.h"

namespace {

using weft::Tensor;
using weft::autograd::SavedTensor;
using weft::autograd::Variable;

// x is [N]; w and b are [1].
Variable line(const Tensor& x, const Variable& w, const Variable& b) {
  const Tensor y = weft::add(weft::mul(x, w.data()), b.data());
  return weft::autograd::record(
      "line", y, {w, b}, [saved = SavedTensor(x)](const Tensor& dy) -> std::vector<Tensor> {
        return {weft::autograd::reduce_to_shape(weft::mul(dy, saved.get()), {1}),
                weft::autograd::reduce_to_shape(dy, {1})};
      });
}

}  // namespace

int main() {
  const Tensor x = weft::from_vector(std::vector<float>{-2, -1, 0, 1, 2}, {5});
  const Tensor target = weft::add(weft::mul(x, 3.0), 0.5);
  Variable w(weft::zeros({1}), true);
  Variable b(weft::zeros({1}), true);
  for (int step = 0; step < 100; ++step) {
    const Variable y = line(x, w, b);
    y.backward(weft::mul(weft::sub(y.data(), target), 2.0 / 5));  // gradient of the mean square
    for (Variable* p : {&w, &b}) {
      weft::add_(p->mutable_data(), p->grad(), -0.1);
      p->zero_grad();
    }
  }
  const float slope = w.data().item<float>();
  const float offset = b.data().item<float>();
  std::printf("w = %g, b = %g\n", slope, offset);
  return std::abs(slope - 3) < 1e-3F && std::abs(offset - 0.5F) < 1e-3F ? 0 : 1;
}
