#include "weft/attention/head_linear.h"

#include <utility>

#include "weft/autograd/node.h"
#include "weft/tensor/check.h"
#include "weft/tensor/ops/linear.h"
#include "weft/tensor/ops/matmul.h"

namespace weft::attention {
namespace {

using autograd::record;
using autograd::SavedTensor;

/// The rows of `weight` that are meant, [N, last - first, C].
Tensor blocks_of(const Tensor& weight, const HeadRows& rows) {
  return weight.view({rows.heads, weight.size(0) / rows.heads, weight.size(1)})
      .slice(1, rows.first, rows.last);
}

bool leading_axes_merge(const Tensor& x) {
  return x.size(0) == 1 || x.size(1) == 1 || x.stride(0) == x.size(1) * x.stride(1);
}

/// x [B, T, N, K] as [N, B T, K]; a copy where sequences do not follow one another in memory.
Tensor by_head(const Tensor& x) {
  return x.reshape({x.size(0) * x.size(1), x.size(2), x.size(3)}).transpose(0, 1);
}

/// y_n = x_n W_n^T or x_n W_n.
Tensor multiply(const Tensor& x, const Tensor& blocks, bool transpose_blocks) {
  const int64_t columns = blocks.size(transpose_blocks ? 1 : 2);
  const Tensor y = empty({x.size(0), x.size(1), x.size(2), columns}, x.dtype(), x.device());
  const MatmulOptions options{.transpose_b = transpose_blocks};
  if (leading_axes_merge(x)) {
    Tensor out = by_head(y);
    matmul_into(out, by_head(x), blocks, /*beta=*/0, options);
  } else {
    Tensor out = y.transpose(1, 2);
    matmul_into(out, x.transpose(1, 2), blocks, /*beta=*/0, options);
  }
  return y;
}

}  // namespace

Variable head_linear(const Variable& x, const Variable& weight, const HeadRows& rows,
                     bool transposed) {
  const Tensor& w = weight.data();
  WEFT_CHECK(w.rank() == 2 && rows.heads >= 1 && w.size(0) % rows.heads == 0 && rows.first >= 0 &&
                 rows.first < rows.last && rows.last <= w.size(0) / rows.heads,
             ShapeError, "head_linear: rows {} to {} of each of {} heads are not in weight {}",
             rows.first, rows.last, rows.heads, w);
  const int64_t width = transposed ? rows.last - rows.first : w.size(1);
  WEFT_CHECK(x.rank() == 4 && x.size(2) == rows.heads && x.size(3) == width, ShapeError,
             "head_linear: x must be [B, T, {}, {}], got {}", rows.heads, width, x.data());
  WEFT_CHECK(w.dtype() == x.dtype() || w.dtype() == DType::f32, DTypeError,
             "head_linear: weight must be of the type of x or f32; got weight {}, x {}", w,
             x.data());
  const auto low_precision = [dtype = x.dtype()](const Tensor& masters) {
    return masters.dtype() == dtype ? masters : low_precision_copy(masters, dtype);
  };
  Tensor y = multiply(x.data(), blocks_of(low_precision(w), rows), !transposed);
  if (!autograd::grad_enabled()) return Variable(std::move(y));
  return record("head_linear", y, {x, weight},
                [x = SavedTensor(x.data()), weight = SavedTensor(w), rows, transposed,
                 low_precision, want_dx = x.requires_grad(),
                 want_dweight = weight.requires_grad()](const Tensor& dy) -> std::vector<Tensor> {
                  Tensor dx, dweight;
                  if (want_dx) {
                    dx = multiply(dy, blocks_of(low_precision(weight.get()), rows), transposed);
                  }
                  if (want_dweight) {
                    dweight = zeros_like(weight.get());
                    Tensor blocks = blocks_of(dweight, rows);
                    const Tensor dy_rows = by_head(dy), x_rows = by_head(x.get());
                    matmul_into(blocks, transposed ? x_rows : dy_rows,
                                transposed ? dy_rows : x_rows, /*beta=*/0, {.transpose_a = true});
                  }
                  return {dx, dweight};
                });
}

}  // namespace weft::attention
