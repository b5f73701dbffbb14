#include "ops/few_rows_cuda.h"

#include <cstdint>
#include <limits>

namespace weft {
namespace {

/// Whether rows can be read 16 bytes at a time. Undefined tensors can.
bool has_aligned_rows(const Tensor& x) {
  if (!x.defined()) return true;
  const auto bytes = static_cast<int64_t>(size_of(x.dtype()));
  const bool dense = x.stride(1) == 1 || x.size(1) == 1;
  return dense && reinterpret_cast<uintptr_t>(x.raw_data()) % 16 == 0 &&
         (x.size(0) == 1 || x.stride(0) * bytes % 16 == 0) && x.size(1) * bytes % 16 == 0;
}

bool has_type(const Tensor& x, DType dtype) {
  return !x.defined() || x.dtype() == dtype;
}

}  // namespace

bool few_rows_product_cuda(const FewRowsParams& params, Stream stream) {
  const Tensor& x = params.x;
  const DType dtype = x.dtype();
  if (dtype == DType::f64 || x.size(0) < 1 || x.size(0) > kMostFewRows || x.size(1) < 1)
    return false;
  constexpr int64_t kMost = std::numeric_limits<int>::max() / 2;
  if (x.size(1) > kMost || params.weight.size(0) > kMost) return false;
  for (const Tensor* operand : {&x, &params.residual, &params.sum, &params.weight, &params.up}) {
    if (!has_type(*operand, dtype) || !has_aligned_rows(*operand)) return false;
  }
  if (params.gain.defined() && reinterpret_cast<uintptr_t>(params.gain.raw_data()) % 16 != 0)
    return false;
  if (params.y.stride(1) != 1 && params.y.size(1) != 1) return false;
  if (params.y.dtype() != dtype) return false;
  switch (dtype) {
    case DType::f32:
      return run_few_rows<float>(params, stream);
    case DType::bf16:
      return run_few_rows<bf16>(params, stream);
    case DType::f16:
      return run_few_rows<f16>(params, stream);
    default:
      return false;
  }
}

}  // namespace weft
