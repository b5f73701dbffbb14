#include "weft/tensor/ops/gather.h"

#include "weft/tensor/check.h"
#include "weft/tensor/kernel.h"

#include "ops/elementwise.h"
#include "ops/gather_kernels.h"
#include "ops/index_check.h"
#include "ops/op_list.h"

namespace weft {
namespace {

constexpr Kernel<void(const Tensor&, int, const Tensor&, Tensor&, Stream)> kGather{
    "gather", &gather_cpu, WEFT_CUDA_KERNEL(gather_cuda)};
constexpr Kernel<void(Tensor&, int, const Tensor&, const Tensor&, Stream)> kScatterAdd{
    "scatter_add", &scatter_add_cpu, WEFT_CUDA_KERNEL(scatter_add_cuda)};

int checked_axis(const char* op, const Tensor& x, int axis, const Tensor& index) {
  WEFT_CHECK(x.defined() && index.defined(), ShapeError, "{}: undefined tensor", op);
  WEFT_CHECK(index.dtype() == DType::i64 || index.dtype() == DType::i32, DTypeError,
             "{}: index must be i64 or i32, got {}", op, index);
  WEFT_CHECK(index.device() == x.device(), DeviceError, "{}: index {} is not on the device of {}",
             op, index, x);
  return normalize_axis(op, axis, x.rank());
}

void check_index_values(const char* op, const Tensor& x, int axis, const Tensor& index) {
  check_indices(op, "index", index, x.shape()[axis], fmt::format("axis {} of {}", axis, x));
}

int checked_gather(const char* op, const Tensor& x, int axis, const Tensor& index) {
  axis = checked_axis(op, x, axis, index);
  bool fits = index.rank() == x.rank();
  for (int a = 0; fits && a < x.rank(); ++a) fits = a == axis || index.shape()[a] <= x.shape()[a];
  WEFT_CHECK(fits, ShapeError,
             "{}: index {} must have the rank of {} and at most its sizes but for axis {}", op,
             index, x, axis);
  check_index_values(op, x, axis, index);
  return axis;
}

/// The list `index` as an index for gather(), broadcast over the other axes of x.
Tensor expand_list(const char* op, const Tensor& x, int axis, const Tensor& index) {
  WEFT_CHECK(index.rank() == 1, ShapeError, "{}: index must have rank 1, got {}", op, index);
  Shape shape = x.shape();
  shape[axis] = index.shape()[0];
  Tensor expanded = index;
  for (int a = axis + 1; a < x.rank(); ++a) expanded = expanded.unsqueeze(-1);
  return expanded.expand(shape);
}

Tensor gather_checked(const Tensor& x, int axis, const Tensor& index) {
  Tensor out = empty(index.shape(), x.dtype(), x.device());
  if (out.numel() > 0) kGather(x.device())(x, axis, index, out, current_stream(x.device()));
  return out;
}

void check_source(const char* op, const Tensor& x, const Tensor& source, const Shape& shape) {
  WEFT_CHECK(source.defined() && source.shape() == shape, ShapeError,
             "{}: source must be {}, got {}", op, shape, source);
  WEFT_CHECK(source.dtype() == x.dtype(), DTypeError, "{}: source {} must have the type of {}", op,
             source, x);
  WEFT_CHECK(source.device() == x.device(), DeviceError, "{}: source {} is not on the device of {}",
             op, source, x);
  WEFT_CHECK(is_floating(x.dtype()) || x.dtype() == DType::i64 || x.dtype() == DType::i32,
             DTypeError, "{}: takes f64, f32, bf16, f16, i64 or i32, got {}", op, x);
}

void scatter_add_checked(const char* op, Tensor& x, int axis, const Tensor& index,
                         const Tensor& source) {
  check_writable(op, x);
  if (index.numel() == 0) return;
  if (index.storage() == x.storage())
    return scatter_add_checked(op, x, axis, index.clone(), source);
  if (source.storage() == x.storage())
    return scatter_add_checked(op, x, axis, index, source.clone());
  const Stream stream = current_stream(x.device());
  if (x.dtype() == DType::bf16 || x.dtype() == DType::f16) {
    Tensor total = x.to(DType::f32);
    kScatterAdd(x.device())(total, axis, index, source.to(DType::f32), stream);
    x.copy_(total);
  } else {
    kScatterAdd(x.device())(x, axis, index, source, stream);
    x.storage()->bump_version();
  }
}

}  // namespace

Tensor gather(const Tensor& x, int axis, const Tensor& index) {
  axis = checked_gather("gather", x, axis, index);
  return gather_checked(x, axis, index);
}

Tensor& scatter_add_(Tensor& x, int axis, const Tensor& index, const Tensor& source) {
  axis = checked_gather("scatter_add", x, axis, index);
  check_source("scatter_add", x, source, index.shape());
  scatter_add_checked("scatter_add", x, axis, index, source);
  return x;
}

Tensor scatter_add(const Tensor& x, int axis, const Tensor& index, const Tensor& source) {
  WEFT_CHECK(x.defined(), ShapeError, "scatter_add: undefined tensor");
  Tensor result = x.clone();
  return scatter_add_(result, axis, index, source);
}

Tensor index_select(const Tensor& x, int axis, const Tensor& index) {
  axis = checked_axis("index_select", x, axis, index);
  const Tensor expanded = expand_list("index_select", x, axis, index);
  check_index_values("index_select", x, axis, index);
  return gather_checked(x, axis, expanded);
}

Tensor& index_add_(Tensor& x, int axis, const Tensor& index, const Tensor& source) {
  axis = checked_axis("index_add", x, axis, index);
  const Tensor expanded = expand_list("index_add", x, axis, index);
  check_index_values("index_add", x, axis, index);
  check_source("index_add", x, source, expanded.shape());
  scatter_add_checked("index_add", x, axis, expanded, source);
  return x;
}

Tensor index_add(const Tensor& x, int axis, const Tensor& index, const Tensor& source) {
  WEFT_CHECK(x.defined(), ShapeError, "index_add: undefined tensor");
  Tensor result = x.clone();
  return index_add_(result, axis, index, source);
}

void list_gather_ops(OpTable& table) {
  table.add(kGather, kAllTypes, {"gather", "index_select"});
  table.add(kScatterAdd, kFloatingTypes | DTypeSet{DType::i64, DType::i32},
            {"scatter_add", "index_add"});
}

}  // namespace weft
