// Tensors and gradients by hand: what a tensor is, what a view shares, what autograd records, and
// how its gradients compare with those on paper.
#include <iostream>

#include "weft/autograd/dot.h"
#include "weft/autograd/functions/arithmetic.h"
#include "weft/autograd/functions/matmul.h"
#include "weft/autograd/functions/reduce.h"
#include "weft/autograd/functions/unary.h"
#include "weft/tensor/ops/matmul.h"
#include "weft/tensor/tensor.h"

using weft::Tensor;
using weft::autograd::Variable;

int main() {
  // A tensor is a handle: shape, strides and type over shared memory.
  Tensor a = weft::arange(0, 6).to(weft::DType::f32).view({2, 3});
  std::cout << "a = " << a << "\n\n";

  // Views copy nothing. Writing through one is seen through the other.
  Tensor second_column = a.select(1, 1);
  second_column.fill_(10);
  std::cout << "after filling a view of its second column, a = " << a << "\n\n";
  std::cout << "a a^T = " << weft::matmul(a, a.transpose(0, 1)) << "\n\n";

  // A variable is a tensor that remembers how it was computed.
  Variable w(weft::from_vector<double>({0.5, -1.0}, {2}), /*requires_grad=*/true);
  const Variable x(weft::from_vector<double>({2.0, 3.0}, {2}));
  const Variable error = weft::autograd::sub(weft::autograd::sum(weft::autograd::mul(w, x)),
                                             Variable(weft::scalar(1.0, weft::DType::f64)));
  const Variable loss = weft::autograd::square(error);  // (w.x - 1)^2
  std::cout << "the record of the loss, for Graphviz:\n" << weft::autograd::to_dot(loss) << "\n";

  // On paper: d/dw (w.x - 1)^2 = 2 (w.x - 1) x, and w.x - 1 = 0.5*2 - 1*3 - 1 = -3.
  loss.backward();
  std::cout << "loss = " << loss.data().item<double>() << "\n";
  std::cout << "autograd says " << w.grad() << "\n";
  std::cout << "paper says    [-12, -18]\n";
  return w.grad().to_vector<double>() == std::vector<double>{-12, -18} ? 0 : 1;
}
