#include "weft/tensor/check.h"
#include "weft/tensor/ops/linear.h"

#include "ops/derived_cache.h"
#include "ops/gemm.h"

namespace weft {
namespace {

DerivedCache<Tensor>& copies() {
  static DerivedCache<Tensor> cache;
  return cache;
}

bool has_dense_columns(const Tensor& matrix) {
  return matrix.rank() == 2 && matrix.stride(0) == 1 && matrix.stride(1) != 1;
}

}  // namespace

Tensor low_precision_copy(const Tensor& weight, DType dtype) {
  WEFT_CHECK(weight.defined(), ShapeError, "low_precision_copy: undefined tensor");
  if (weight.dtype() == dtype) return weight;
  // A weight and its transpose share one copy.
  if (has_dense_columns(weight))
    return low_precision_copy(weight.transpose(0, 1), dtype).transpose(0, 1);
  return copies().get_or_make(weight, static_cast<int64_t>(dtype),
                              [&] { return weight.to(dtype); });
}

void clear_low_precision_copies() {
  copies().clear();
  clear_packed_weights_cpu();
}

}  // namespace weft
