#include "weft/tensor/ops/reduce.h"

#include "weft/tensor/check.h"
#include "weft/tensor/kernel.h"

#include "ops/op_list.h"
#include "ops/reduce_kernels.h"

namespace weft {
namespace {

constexpr Kernel<void(const ReduceParams&, const Tensor&, Tensor&, Stream)> kReduce{
    "reduce", &reduce_cpu, WEFT_CUDA_KERNEL(reduce_cuda)};

unsigned mask_of(const char* op, const Tensor& x, const Axes& axes) {
  WEFT_CHECK(x.defined(), ShapeError, "{}: undefined tensor", op);
  return axes.mask(op, x.rank());
}

Tensor reduce(const ReduceParams& params, const Tensor& x, DType result, bool keepdim) {
  Shape shape;
  int64_t reduced = 1;
  for (int axis = 0; axis < x.rank(); ++axis) {
    const bool is_reduced = (params.mask >> axis & 1u) != 0;
    if (is_reduced) reduced *= x.shape()[axis];
    if (!is_reduced || keepdim) shape.push_back(is_reduced ? 1 : x.shape()[axis]);
  }
  if (reduced == 1 && (params.op == ReduceOp::sum || params.op == ReduceOp::mean ||
                       params.op == ReduceOp::max || params.op == ReduceOp::min)) {
    Tensor out = empty(shape, result, x.device());
    out.copy_(x.reshape(shape));
    return out;
  }
  Tensor out = empty(shape, result, x.device());
  if (out.numel() > 0) kReduce(x.device())(params, x, out, current_stream(x.device()));
  return out;
}

void check_floating(const char* op, const Tensor& x) {
  WEFT_CHECK(is_floating(x.dtype()), DTypeError, "{}: takes f64, f32, bf16 or f16, got {}", op, x);
}

void check_ordered(const char* op, const Tensor& x, unsigned mask) {
  WEFT_CHECK(x.dtype() != DType::boolean, DTypeError, "{}: takes any type but bool, got {}", op, x);
  for (int axis = 0; axis < x.rank(); ++axis) {
    WEFT_CHECK((mask >> axis & 1u) == 0 || x.shape()[axis] > 0, ShapeError,
               "{}: axis {} of {} has no elements", op, axis, x);
  }
}

Tensor extremum(ReduceOp op, const char* name, const Tensor& x, const Axes& axes, bool keepdim) {
  const unsigned mask = mask_of(name, x, axes);
  check_ordered(name, x, mask);
  return reduce({op, name, mask}, x, x.dtype(), keepdim);
}

Tensor arg_extremum(ReduceOp op, const char* name, const Tensor& x, int axis, bool keepdim) {
  const unsigned mask = mask_of(name, x, axis);
  check_ordered(name, x, mask);
  return reduce({op, name, mask}, x, DType::i64, keepdim);
}

}  // namespace

Tensor sum(const Tensor& x, const Axes& axes, bool keepdim) {
  const unsigned mask = mask_of("sum", x, axes);
  return reduce({ReduceOp::sum, "sum", mask}, x, is_floating(x.dtype()) ? x.dtype() : DType::i64,
                keepdim);
}

Tensor mean(const Tensor& x, const Axes& axes, bool keepdim) {
  const unsigned mask = mask_of("mean", x, axes);
  check_floating("mean", x);
  return reduce({ReduceOp::mean, "mean", mask}, x, x.dtype(), keepdim);
}

Tensor max(const Tensor& x, const Axes& axes, bool keepdim) {
  return extremum(ReduceOp::max, "max", x, axes, keepdim);
}

Tensor min(const Tensor& x, const Axes& axes, bool keepdim) {
  return extremum(ReduceOp::min, "min", x, axes, keepdim);
}

Tensor var(const Tensor& x, const Axes& axes, int correction, bool keepdim) {
  const unsigned mask = mask_of("var", x, axes);
  check_floating("var", x);
  WEFT_CHECK(correction >= 0, ConfigError, "var: correction must not be negative, got {}",
             correction);
  return reduce({ReduceOp::var, "var", mask, static_cast<double>(correction)}, x, x.dtype(),
                keepdim);
}

Tensor norm(const Tensor& x, const Axes& axes, double p, bool keepdim) {
  const unsigned mask = mask_of("norm", x, axes);
  check_floating("norm", x);
  WEFT_CHECK(p > 0, ConfigError, "norm: p must be above 0 (infinity is allowed), got {}", p);
  return reduce({ReduceOp::norm, "norm", mask, p}, x, x.dtype(), keepdim);
}

Tensor logsumexp(const Tensor& x, const Axes& axes, bool keepdim) {
  const unsigned mask = mask_of("logsumexp", x, axes);
  check_floating("logsumexp", x);
  return reduce({ReduceOp::logsumexp, "logsumexp", mask}, x, x.dtype(), keepdim);
}

Tensor any(const Tensor& x, const Axes& axes, bool keepdim) {
  return reduce({ReduceOp::any, "any", mask_of("any", x, axes)}, x, DType::boolean, keepdim);
}

Tensor all(const Tensor& x, const Axes& axes, bool keepdim) {
  return reduce({ReduceOp::all, "all", mask_of("all", x, axes)}, x, DType::boolean, keepdim);
}

Tensor argmax(const Tensor& x, int axis, bool keepdim) {
  return arg_extremum(ReduceOp::argmax, "argmax", x, axis, keepdim);
}

Tensor argmin(const Tensor& x, int axis, bool keepdim) {
  return arg_extremum(ReduceOp::argmin, "argmin", x, axis, keepdim);
}

void list_reduce_ops(OpTable& table) {
  table.add(kReduce, kAllTypes, {"sum", "any", "all"});
  table.add(kReduce, kNumericTypes, {"max", "min", "argmax", "argmin"});
  table.add(kReduce, kFloatingTypes, {"mean", "var", "norm", "logsumexp"});
}

}  // namespace weft
