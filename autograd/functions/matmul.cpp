#include "weft/autograd/functions/matmul.h"

#include "weft/autograd/node.h"

namespace weft::autograd {
namespace {

/// [..., M, E] as [rows, E].
Tensor fold_rows(const Tensor& x) {
  return x.rank() == 2 ? x : x.flatten(0, -2);
}

/// x^T y for each matrix of the batch, summed over the batch axes that `shape` lacks or has as 1.
Tensor transposed_product(const Tensor& x, const Tensor& y, double alpha, const Shape& shape) {
  const MatmulOptions options{.transpose_a = true, .alpha = alpha};
  // With a single matrix left, one product sums over the batch on the way.
  if (shape.rank() == 2 && x.rank() == y.rank()) return matmul(fold_rows(x), fold_rows(y), options);
  return reduce_to_shape(matmul(x, y, options), shape);
}

Tensor product_with_transpose(const Tensor& x, const Tensor& y, double alpha, const Shape& shape) {
  return reduce_to_shape(matmul(x, y, {.transpose_b = true, .alpha = alpha}), shape);
}

/// Vectors as the matrices that they stand for.
Tensor as_row(const Tensor& a) {
  return a.rank() == 1 ? a.unsqueeze(0) : a;
}
Tensor as_column(const Tensor& b) {
  return b.rank() == 1 ? b.unsqueeze(1) : b;
}

}  // namespace

Variable matmul(const Variable& a, const Variable& b, const MatmulOptions& options) {
  Tensor c = weft::matmul(a.data(), b.data(), options);
  return record("matmul", std::move(c), {a, b},
                [saved_a = SavedTensor(a.data()), saved_b = SavedTensor(b.data()),
                 want_da = a.requires_grad(), want_db = b.requires_grad(),
                 options](const Tensor& gradient) -> std::vector<Tensor> {
                  const Tensor left = as_row(saved_a.get()), right = as_column(saved_b.get());
                  const double alpha = options.alpha;
                  Tensor dc = gradient.to(left.dtype());  // [..., M, N]
                  if (saved_b.get().rank() == 1) dc = dc.unsqueeze(-1);
                  if (saved_a.get().rank() == 1) dc = dc.unsqueeze(-2);
                  Tensor da, db;
                  if (want_da) {  // dc b^T, or its transpose
                    const Tensor factor = options.transpose_b ? right.transpose(-1, -2) : right;
                    da = options.transpose_a
                             ? product_with_transpose(factor, dc, alpha, left.shape())
                             : product_with_transpose(dc, factor, alpha, left.shape());
                    da = da.view(saved_a.get().shape());
                  }
                  if (want_db) {  // a^T dc, or its transpose
                    const Tensor factor = options.transpose_a ? left.transpose(-1, -2) : left;
                    db = options.transpose_b ? transposed_product(dc, factor, alpha, right.shape())
                                             : transposed_product(factor, dc, alpha, right.shape());
                    db = db.view(saved_b.get().shape());
                  }
                  return {da, db};
                });
}

}  // namespace weft::autograd
