#include "weft/tensor/ops/softmax.h"

#include "weft/tensor/check.h"
#include "weft/tensor/kernel.h"

#include "ops/op_list.h"
#include "ops/rows.h"
#include "ops/softmax_kernels.h"

namespace weft {
namespace {

constexpr Kernel<void(const Tensor&, Tensor&, bool, Stream)> kForward{
    "softmax", &softmax_cpu, WEFT_CUDA_KERNEL(softmax_cuda)};
constexpr Kernel<void(const Tensor&, const Tensor&, Tensor&, bool, Stream)> kBackward{
    "softmax_backward", &softmax_backward_cpu, WEFT_CUDA_KERNEL(softmax_backward_cuda)};

int checked_axis(const char* op, const Tensor& x, int axis) {
  WEFT_CHECK(x.defined(), ShapeError, "{}: undefined tensor", op);
  WEFT_CHECK(is_floating(x.dtype()), DTypeError, "{}: takes f64, f32, bf16 or f16, got {}", op, x);
  return normalize_axis(op, axis, x.rank());
}

/// The tensor as its launcher takes it: rows, or [O, N, I].
Tensor as_lines(const Tensor& x, int axis) {
  if (axis == x.rank() - 1) return as_rows(x);
  int64_t outer = 1;
  for (int a = 0; a < axis; ++a) outer *= x.shape()[a];
  int64_t inner = 1;
  for (int a = axis + 1; a < x.rank(); ++a) inner *= x.shape()[a];
  if (inner == 1) return as_rows(x.contiguous().view({outer, x.shape()[axis]}));
  return x.contiguous().view({outer, x.shape()[axis], inner});
}

Tensor forward(const char* op, const Tensor& x, int axis, bool log) {
  axis = checked_axis(op, x, axis);
  Tensor y = empty(x.shape(), x.dtype(), x.device());
  if (y.numel() == 0) return y;
  const Tensor lines = as_lines(x, axis);
  Tensor out = y.view(lines.shape());
  kForward(x.device())(lines, out, log, current_stream(x.device()));
  return y;
}

Tensor backward(const char* op, const Tensor& dy, const Tensor& y, int axis, bool log) {
  axis = checked_axis(op, y, axis);
  WEFT_CHECK(dy.defined() && dy.shape() == y.shape(), ShapeError,
             "{}: dy must have the shape of y, got {} for {}", op, dy, y);
  WEFT_CHECK(dy.dtype() == y.dtype(), DTypeError, "{}: dy must have the type of y, got {} for {}",
             op, dy, y);
  WEFT_CHECK(dy.device() == y.device(), DeviceError,
             "{}: dy must be on the device of y, got {} for {}", op, dy, y);
  Tensor dx = empty(y.shape(), y.dtype(), y.device());
  if (dx.numel() == 0) return dx;
  const Tensor lines = as_lines(y, axis);
  Tensor out = dx.view(lines.shape());
  kBackward(y.device())(as_lines(dy, axis), lines, out, log, current_stream(y.device()));
  return dx;
}

}  // namespace

Tensor softmax(const Tensor& x, int axis) {
  return forward("softmax", x, axis, /*log=*/false);
}

Tensor log_softmax(const Tensor& x, int axis) {
  return forward("log_softmax", x, axis, /*log=*/true);
}

Tensor softmax_backward(const Tensor& dy, const Tensor& y, int axis) {
  return backward("softmax_backward", dy, y, axis, /*log=*/false);
}

Tensor log_softmax_backward(const Tensor& dy, const Tensor& y, int axis) {
  return backward("log_softmax_backward", dy, y, axis, /*log=*/true);
}

void list_softmax_ops(OpTable& table) {
  table.add(kForward, kFloatingTypes, {"softmax", "log_softmax"});
  table.add(kBackward, kFloatingTypes, {"softmax_backward", "log_softmax_backward"});
}

}  // namespace weft
