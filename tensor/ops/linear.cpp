#include "weft/tensor/ops/linear.h"

#include "weft/tensor/check.h"
#include "weft/tensor/kernel.h"
#include "weft/tensor/ops/matmul.h"

#include "ops/gemm.h"
#include "ops/linear_operands.h"
#include "ops/op_list.h"

namespace weft {
namespace {

constexpr Kernel<void(const Tensor&, const Tensor&, Tensor&, const Tensor&, Stream)> kWeightGemm{
    "linear", &gemm_weight_cpu, WEFT_CUDA_KERNEL(gemm_weight_cuda)};

/// [..., K] x [K, N] + bias -> [..., N], of x's type.
Tensor multiply_rows(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  Shape shape = x.shape();
  shape[shape.rank() - 1] = weight.size(1);
  const Tensor y = empty(shape, x.dtype(), x.device());
  if (y.numel() == 0) return y;
  Tensor bias_row;  // in the type of the sums
  if (bias.defined()) {
    const DType dtype = x.dtype() == DType::f64 ? DType::f64 : DType::f32;
    bias_row = bias.to(dtype).contiguous().view({1, bias.numel()});
  }
  Tensor rows = merged_rows(y);
  kWeightGemm(x.device())(merged_rows(x), weight, rows, bias_row, current_stream(x.device()));
  return y;
}

void check_gradient_operands(const char* op, const Tensor& dy, const Tensor& x) {
  WEFT_CHECK(dy.defined() && x.defined() && dy.rank() >= 1 && dy.rank() == x.rank(), ShapeError,
             "{}: dy is {}, x is {}; they must have the same leading axes", op, dy, x);
  for (int axis = 0; axis + 1 < x.rank(); ++axis) {
    WEFT_CHECK(dy.shape()[axis] == x.shape()[axis], ShapeError,
               "{}: dy is {}, x is {}; they must have the same leading axes", op, dy, x);
  }
}

/// What a product of two operands of one type, summed into `out`, must fulfil.
void check_product_types(const char* op, const Tensor& dy, const Tensor& x, DType out) {
  WEFT_CHECK(dy.device() == x.device(), DeviceError, "{}: dy is {}, x is {}", op, dy, x);
  WEFT_CHECK(is_floating(dy.dtype()) && dy.dtype() == x.dtype(), DTypeError,
             "{}: dy and x must have one type of f64, f32, bf16, f16; got dy {}, x {}", op, dy, x);
  WEFT_CHECK(out == dy.dtype() || (out == DType::f32 && dy.dtype() != DType::f64), DTypeError,
             "{}: gradients must be of the type of dy or f32; got {}, dy {}", op, out, dy);
}

}  // namespace

Tensor merged_rows(const Tensor& x) {
  if (x.rank() == 2) return x;
  const int64_t columns = x.size(-1);
  int64_t rows = 1;
  for (int axis = 0; axis + 1 < x.rank(); ++axis) rows *= x.shape()[axis];
  return x.reshape({rows, columns});
}

void check_weight(const char* op, const char* name, const Tensor& x, const Tensor& weight) {
  WEFT_CHECK(x.defined() && weight.defined(), ShapeError, "{}: {} is {}, weight is {}", op, name, x,
             weight);
  WEFT_CHECK(x.device() == weight.device(), DeviceError, "{}: {} is {}, weight is {}", op, name, x,
             weight);
  WEFT_CHECK(is_floating(x.dtype()), DTypeError, "{}: {} must be f64, f32, bf16 or f16, got {}", op,
             name, x);
  WEFT_CHECK(
      weight.dtype() == x.dtype() || (weight.dtype() == DType::f32 && x.dtype() != DType::f64),
      DTypeError, "{}: weight must be of the type of {} or f32; got weight {}, {} {}", op, name,
      weight, name, x);
  WEFT_CHECK(weight.rank() == 2, ShapeError, "{}: weight must be [N, K], got {}", op, weight);
}

void check_linear(const char* op, const Tensor& x, const Tensor& weight, const Tensor& bias) {
  check_weight(op, "x", x, weight);
  WEFT_CHECK(x.rank() >= 1 && x.size(-1) == weight.size(1), ShapeError,
             "{}: the last axis of x {} does not have the {} inputs of weight {}", op, x,
             weight.size(1), weight);
  if (bias.defined()) {
    WEFT_CHECK(bias.rank() == 1 && bias.size(0) == weight.size(0), ShapeError,
               "{}: bias {} does not have the {} outputs of weight {}", op, bias, weight.size(0),
               weight);
    WEFT_CHECK(bias.dtype() == x.dtype() || bias.dtype() == weight.dtype(), DTypeError,
               "{}: bias must be of the type of x or weight; got bias {}, x {}, weight {}", op,
               bias, x, weight);
    WEFT_CHECK(bias.device() == x.device(), DeviceError, "{}: x is {}, bias is {}", op, x, bias);
  }
}

void check_linear_gradient(const char* op, const Tensor& dy, const Tensor& weight) {
  check_weight(op, "dy", dy, weight);
  WEFT_CHECK(dy.rank() >= 1 && dy.size(-1) == weight.size(0), ShapeError,
             "{}: the last axis of dy {} does not have the {} outputs of weight {}", op, dy,
             weight.size(0), weight);
}

Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  check_linear("linear", x, weight, bias);
  return multiply_rows(x, weight.transpose(0, 1), bias);
}

Tensor linear_backward_input(const Tensor& dy, const Tensor& weight) {
  check_linear_gradient("linear_backward_input", dy, weight);
  return multiply_rows(dy, weight, {});
}

Tensor linear_backward_weight(const Tensor& dy, const Tensor& x, std::optional<DType> out_dtype) {
  check_gradient_operands("linear_backward_weight", dy, x);
  return matmul(merged_rows(dy), merged_rows(x), {.transpose_a = true, .out_dtype = out_dtype});
}

void linear_backward_weight_into(Tensor& dweight, const Tensor& dy, const Tensor& x, double beta) {
  check_gradient_operands("linear_backward_weight_into", dy, x);
  matmul_into(dweight, merged_rows(dy), merged_rows(x), beta, {.transpose_a = true});
}

Tensor linear_backward_bias(const Tensor& dy, std::optional<DType> out_dtype) {
  WEFT_CHECK(dy.defined() && dy.rank() >= 1, ShapeError,
             "linear_backward_bias: dy must be [..., N], got {}", dy);
  const Tensor rows = merged_rows(dy);
  return matmul(ones({rows.size(0)}, dy.dtype(), dy.device()), rows, {.out_dtype = out_dtype});
}

LinearParameterGrads linear_backward_parameters(const Tensor& dy, const Tensor& x,
                                                std::optional<DType> out_dtype) {
  constexpr const char* kOp = "linear_backward_parameters";
  check_gradient_operands(kOp, dy, x);
  const DType dtype = out_dtype.value_or(dy.dtype());
  if (dy.device().is_cpu() || dy.numel() == 0 || x.numel() == 0)
    return {linear_backward_weight(dy, x, dtype), linear_backward_bias(dy, dtype)};
  check_product_types(kOp, dy, x, dtype);
  const Tensor rows = merged_rows(dy);
  LinearParameterGrads grads{empty({dy.size(-1), x.size(-1)}, dtype, dy.device()),
                             empty({dy.size(-1)}, dtype, dy.device())};
  gemm(rows.transpose(0, 1), merged_rows(x), grads.dweight, {.row_sums = grads.dbias});
  return grads;
}

void list_linear_ops(OpTable& table) {
  table.add(kWeightGemm, kFloatingTypes, {"linear", "linear_backward_input"});
}

}  // namespace weft
