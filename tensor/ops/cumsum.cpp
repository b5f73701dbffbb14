#include "weft/tensor/ops/cumsum.h"

#include "weft/tensor/check.h"
#include "weft/tensor/kernel.h"

#include "ops/cumsum_kernels.h"
#include "ops/op_list.h"

namespace weft {
namespace {

constexpr Kernel<void(const Tensor&, Tensor&, bool, bool, Stream)> kCumsum{
    "cumsum", &cumsum_cpu, WEFT_CUDA_KERNEL(cumsum_cuda)};

}  // namespace

Tensor cumsum(const Tensor& x, int axis, bool exclusive, bool reverse) {
  WEFT_CHECK(x.defined(), ShapeError, "cumsum: undefined tensor");
  axis = normalize_axis("cumsum", axis, x.rank());
  Tensor y = empty(x.shape(), is_floating(x.dtype()) ? x.dtype() : DType::i64, x.device());
  if (y.numel() == 0) return y;
  Shape lines{1, x.shape()[axis], 1};
  for (int a = 0; a < x.rank(); ++a) {
    if (a != axis) lines[a < axis ? 0 : 2] *= x.shape()[a];
  }
  Tensor out = y.view(lines);
  kCumsum(x.device())(x.contiguous().view(lines), out, exclusive, reverse,
                      current_stream(x.device()));
  return y;
}

void list_cumsum_ops(OpTable& table) {
  table.add(kCumsum, kAllTypes);
}

}  // namespace weft
