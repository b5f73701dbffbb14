#pragma once

#include "weft/tensor/stream.h"
#include "weft/tensor/tensor.h"

namespace weft {

/// A product of few rows with a weight, in which reading the weight is all the work.
struct FewRowsParams {
  Tensor x;         // [M, K]
  Tensor residual;  // [M, K], added to x; undefined: none
  Tensor sum;       // [M, K], where there is a residual: x + residual
  Tensor gain;  // [K] of the accumulator type: rows are normed as rms_norm() does; undefined: not
  double eps = 0;
  Tensor weight;  // [N, K], of x's type
  Tensor up;      // [N, K]: y = silu(x weight^T) * (x up^T); undefined: y = x weight^T + bias
  Tensor bias;    // N elements of the accumulator type, dense; undefined: none
  Tensor y;       // [M, N]
  /// Nothing on the stream still writes gain, weight or up, so that they may be read before earlier
  /// kernels are done.
  bool settled = false;
};

/// Rows up to which few_rows_product_cuda() is for.
inline constexpr int64_t kMostFewRows = 8;

/// Puts the product on the stream; false, with nothing done, where sizes, types or layouts are not
/// for its kernels: f64, rows that cannot be read 16 bytes at a time, too many or too long rows.
bool few_rows_product_cuda(const FewRowsParams& params, Stream stream);

/// The same for checked arguments of type T: float, bf16 or f16.
template <class T>
bool run_few_rows(const FewRowsParams& params, Stream stream);
template <>
bool run_few_rows<float>(const FewRowsParams& params, Stream stream);
template <>
bool run_few_rows<bf16>(const FewRowsParams& params, Stream stream);
template <>
bool run_few_rows<f16>(const FewRowsParams& params, Stream stream);

}  // namespace weft
