#include "weft/tensor/ops/compare.h"

#include "weft/tensor/check.h"
#include "weft/tensor/kernel.h"

#include "ops/compare_kernels.h"
#include "ops/op_list.h"

namespace weft {
namespace {

constexpr Kernel<void(CompareOp, const char*, DType, const Operand&, const Operand&, Tensor&,
                      Stream)>
    kCompare{"compare", &compare_cpu, WEFT_CUDA_KERNEL(compare_cuda)};
constexpr Kernel<void(const Tensor&, const Operand&, const Operand&, Tensor&, Stream)> kWhere{
    "where", &where_cpu, WEFT_CUDA_KERNEL(where_cuda)};
constexpr Kernel<void(ClassifyOp, const Tensor&, Tensor&, Stream)> kClassify{
    "classify", &classify_cpu, WEFT_CUDA_KERNEL(classify_cuda)};
constexpr Kernel<bool(const Tensor&, Stream)> kAllFinite{"all_finite", &all_finite_cpu,
                                                         WEFT_CUDA_KERNEL(all_finite_cuda)};

Tensor compare(CompareOp op, const char* name, const OperandPair& pair) {
  Tensor out = empty(pair.shape, DType::boolean, pair.device);
  if (out.numel() > 0)
    kCompare(pair.device)(op, name, pair.dtype, pair.a, pair.b, out, current_stream(pair.device));
  return out;
}

template <class B>
Tensor compare(CompareOp op, const char* name, const Tensor& a, const B& b) {
  return compare(op, name, pair_operands(name, a, b));
}

void check_boolean(const char* op, const Tensor& x) {
  check_defined(op, x);
  WEFT_CHECK(x.dtype() == DType::boolean, DTypeError, "{}: takes bool, got {}", op, x);
}

Tensor logical(CompareOp op, const char* name, const Tensor& a, const Tensor& b) {
  check_boolean(name, a);
  check_boolean(name, b);
  return compare(op, name, a, b);
}

Tensor choose(const Tensor& condition, OperandPair pair) {
  check_boolean("where", condition);
  WEFT_CHECK(condition.device() == pair.device, DeviceError,
             "where: condition {} is not on the device {} of the values", condition, pair.device);
  const Shape shape = broadcast_shapes("where", condition.shape(), pair.shape);
  for (Operand* operand : {&pair.a, &pair.b}) {
    if (operand->tensor.defined()) operand->tensor = operand->tensor.expand(shape);
  }
  Tensor out = empty(shape, pair.dtype, pair.device);
  if (out.numel() > 0)
    kWhere(pair.device)(condition.expand(shape), pair.a, pair.b, out, current_stream(pair.device));
  return out;
}

Tensor classify(ClassifyOp op, const char* name, const Tensor& x) {
  check_floating(name, x);
  Tensor out = empty(x.shape(), DType::boolean, x.device());
  if (x.numel() > 0) kClassify(x.device())(op, x, out, current_stream(x.device()));
  return out;
}

}  // namespace

Tensor eq(const Tensor& a, const Tensor& b) {
  return compare(CompareOp::eq, "eq", a, b);
}
Tensor eq(const Tensor& a, double b) {
  return compare(CompareOp::eq, "eq", a, b);
}
Tensor ne(const Tensor& a, const Tensor& b) {
  return compare(CompareOp::ne, "ne", a, b);
}
Tensor ne(const Tensor& a, double b) {
  return compare(CompareOp::ne, "ne", a, b);
}
Tensor lt(const Tensor& a, const Tensor& b) {
  return compare(CompareOp::lt, "lt", a, b);
}
Tensor lt(const Tensor& a, double b) {
  return compare(CompareOp::lt, "lt", a, b);
}
Tensor le(const Tensor& a, const Tensor& b) {
  return compare(CompareOp::le, "le", a, b);
}
Tensor le(const Tensor& a, double b) {
  return compare(CompareOp::le, "le", a, b);
}
Tensor gt(const Tensor& a, const Tensor& b) {
  return compare(CompareOp::gt, "gt", a, b);
}
Tensor gt(const Tensor& a, double b) {
  return compare(CompareOp::gt, "gt", a, b);
}
Tensor ge(const Tensor& a, const Tensor& b) {
  return compare(CompareOp::ge, "ge", a, b);
}
Tensor ge(const Tensor& a, double b) {
  return compare(CompareOp::ge, "ge", a, b);
}

Tensor logical_and(const Tensor& a, const Tensor& b) {
  return logical(CompareOp::logical_and, "logical_and", a, b);
}
Tensor logical_or(const Tensor& a, const Tensor& b) {
  return logical(CompareOp::logical_or, "logical_or", a, b);
}
Tensor logical_xor(const Tensor& a, const Tensor& b) {
  return logical(CompareOp::logical_xor, "logical_xor", a, b);
}
Tensor logical_not(const Tensor& x) {
  check_boolean("logical_not", x);
  return compare(CompareOp::eq, "logical_not", x, 0.0);
}

Tensor where(const Tensor& condition, const Tensor& a, const Tensor& b) {
  return choose(condition, pair_operands("where", a, b));
}
Tensor where(const Tensor& condition, const Tensor& a, double b) {
  return choose(condition, pair_operands("where", a, b));
}
Tensor where(const Tensor& condition, double a, const Tensor& b) {
  return choose(condition, pair_operands("where", a, b));
}

Tensor isnan(const Tensor& x) {
  return classify(ClassifyOp::isnan, "isnan", x);
}
Tensor isfinite(const Tensor& x) {
  return classify(ClassifyOp::isfinite, "isfinite", x);
}

bool all_finite(const Tensor& x) {
  check_floating("all_finite", x);
  return x.numel() == 0 || kAllFinite(x.device())(x, current_stream(x.device()));
}

void list_compare_ops(OpTable& table) {
  table.add(kCompare, kAllTypes, {"eq", "ne", "lt", "le", "gt", "ge"});
  table.add(kCompare, {DType::boolean},
            {"logical_and", "logical_or", "logical_xor", "logical_not"});
  table.add(kWhere, kAllTypes);
  table.add(kClassify, kFloatingTypes, {"isnan", "isfinite"});
  table.add(kAllFinite, kFloatingTypes);
}

}  // namespace weft
