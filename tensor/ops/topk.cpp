#include "weft/tensor/ops/topk.h"

#include "weft/tensor/check.h"
#include "weft/tensor/kernel.h"

#include "ops/op_list.h"
#include "ops/rows.h"
#include "ops/topk_kernels.h"

namespace weft {
namespace {

constexpr Kernel<void(const Tensor&, Tensor&, Tensor&, Stream)> kTopK{"topk", &topk_cpu,
                                                                      WEFT_CUDA_KERNEL(topk_cuda)};

}  // namespace

TopK topk(const Tensor& x, int64_t k, int axis) {
  WEFT_CHECK(x.defined(), ShapeError, "topk: undefined tensor");
  WEFT_CHECK(x.dtype() != DType::boolean, DTypeError, "topk: takes any type but bool, got {}", x);
  axis = normalize_axis("topk", axis, x.rank());
  const int64_t size = x.shape()[axis];
  WEFT_CHECK(k >= 1 && k <= size, ConfigError,
             "topk: k must be from 1 to the size of axis {} of {}, got {}", axis, x, k);
  const Tensor moved = x.transpose(axis, -1);
  Shape shape = moved.shape();
  shape[x.rank() - 1] = k;
  TopK result{empty(shape, x.dtype(), x.device()), empty(shape, DType::i64, x.device())};
  if (result.values.numel() > 0) {
    Tensor values = result.values.view({-1, k});
    Tensor indices = result.indices.view({-1, k});
    kTopK(x.device())(as_rows(moved), values, indices, current_stream(x.device()));
  }
  return {result.values.transpose(axis, -1).contiguous(),
          result.indices.transpose(axis, -1).contiguous()};
}

void list_topk_ops(OpTable& table) {
  table.add(kTopK, kNumericTypes);
}

}  // namespace weft
