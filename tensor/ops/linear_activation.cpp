#include "weft/tensor/ops/linear_activation.h"

#include <optional>
#include <utility>

#include "weft/tensor/check.h"
#include "weft/tensor/kernel.h"
#include "weft/tensor/ops/activation.h"
#include "weft/tensor/ops/linear.h"
#include "weft/tensor/ops/unary.h"

#include "ops/activation_product.h"
#include "ops/linear_operands.h"
#include "ops/op_list.h"
#include "ops/rows.h"

namespace weft {
namespace {

constexpr Kernel<bool(const ActivationProduct&, Stream)> kActivationProduct{
    "linear_activation", &activation_product_cpu, WEFT_CUDA_KERNEL(activation_product_cuda)};

Tensor activate(HiddenActivation activation, const Tensor& x) {
  switch (activation) {
    case HiddenActivation::gelu:
      return gelu(x);
    case HiddenActivation::gelu_tanh:
      return gelu(x, Gelu::tanh);
    case HiddenActivation::relu:
      return relu(x);
  }
  return {};
}

/// dh times the activation's derivative.
Tensor activate_backward(HiddenActivation activation, const Tensor& dh,
                         const HiddenFeatures& hidden) {
  switch (activation) {
    case HiddenActivation::gelu:
      return gelu_backward(dh, hidden.saved);
    case HiddenActivation::gelu_tanh:
      return gelu_backward(dh, hidden.saved, Gelu::tanh);
    case HiddenActivation::relu:
      return unary_backward(UnaryFunction::relu, hidden.y, dh);
  }
  return {};
}

/// Whether a GPU may have a product with this activation, of operands of this type.
bool may_fuse(HiddenActivation activation, DType dtype) {
  const bool is_half = dtype == DType::bf16 || dtype == DType::f16;
  return is_half ? activation != HiddenActivation::gelu
                 : dtype == DType::f32 && activation == HiddenActivation::relu;
}

std::optional<HiddenFeatures> fused_forward(const Tensor& x, const Tensor& weight,
                                            const Tensor& bias, HiddenActivation activation,
                                            bool for_backward) {
  if (x.device().is_cpu() || !may_fuse(activation, x.dtype())) return std::nullopt;
  Shape shape = x.shape();
  shape[shape.rank() - 1] = weight.size(0);
  HiddenFeatures hidden{empty(shape, x.dtype(), x.device()), {}};
  if (hidden.y.numel() == 0 || x.numel() == 0) return std::nullopt;
  const Tensor rows = merged_rows(hidden.y);
  if (for_backward) {
    hidden.saved = activation == HiddenActivation::relu
                       ? empty({rows.size(0), mask_bytes(rows.size(1))}, DType::u8, x.device())
                       : empty(shape, x.dtype(), x.device());
  }
  const ActivationProduct product{
      .activation = activation,
      .x = merged_rows(x),
      .weight = weight.transpose(0, 1),
      .bias = bias,
      .y = rows,
      .saved = for_backward ? merged_rows(hidden.saved) : Tensor(),
  };
  if (!kActivationProduct(x.device())(product, current_stream(x.device()))) return std::nullopt;
  return hidden;
}

std::optional<HiddenGrads> fused_backward(const Tensor& dy, const Tensor& weight,
                                          const HiddenFeatures& hidden, HiddenActivation activation,
                                          bool want_dbias) {
  if (dy.device().is_cpu() || !may_fuse(activation, dy.dtype()) || !hidden.saved.defined())
    return std::nullopt;
  if (hidden.y.numel() == 0 || dy.numel() == 0 || !hidden.saved.is_contiguous())
    return std::nullopt;
  HiddenGrads grads{empty(hidden.y.shape(), dy.dtype(), dy.device()), {}};
  if (want_dbias) grads.dbias = empty({weight.size(1)}, dy.dtype(), dy.device());
  const ActivationProduct product{
      .activation = activation,
      .derivative = true,
      .x = merged_rows(dy),
      .weight = weight,
      .y = merged_rows(grads.dsums),
      .saved = merged_rows(hidden.saved),
      .sums = grads.dbias,
  };
  if (!kActivationProduct(dy.device())(product, current_stream(dy.device()))) return std::nullopt;
  return grads;
}

void check_hidden(const char* op, const Tensor& dy, const Tensor& weight,
                  const HiddenFeatures& hidden, HiddenActivation activation) {
  const Tensor& y = hidden.y;
  bool fits = y.defined() && y.rank() == dy.rank() && y.size(-1) == weight.size(1);
  for (int axis = 0; fits && axis + 1 < y.rank(); ++axis)
    fits = y.shape()[axis] == dy.shape()[axis];
  WEFT_CHECK(fits, ShapeError,
             "{}: hidden.y must be [..., N] with the leading axes of dy {} and the {} inputs of "
             "weight {}, got {}",
             op, dy, weight.size(1), weight, y);
  WEFT_CHECK(y.device() == dy.device(), DeviceError, "{}: dy is {}, hidden.y is {}", op, dy, y);
  WEFT_CHECK(y.dtype() == dy.dtype(), DTypeError,
             "{}: dy and hidden.y must have one type; got {}, {}", op, dy, y);
  if (activation != HiddenActivation::relu) {
    WEFT_CHECK(hidden.saved.defined(), ShapeError,
               "{}: hidden.saved is undefined; linear_activation() makes it with for_backward", op);
    check_same_kind(op, "hidden.saved", hidden.saved, "hidden.y", y);
  } else if (hidden.saved.defined()) {
    const int64_t rows = y.numel() == 0 ? 0 : y.numel() / y.size(-1);
    WEFT_CHECK(hidden.saved.dtype() == DType::u8 &&
                   hidden.saved.shape() == Shape({rows, mask_bytes(y.size(-1))}) &&
                   hidden.saved.device() == y.device(),
               ShapeError, "{}: hidden.saved {} is no mask of hidden.y {}", op, hidden.saved, y);
  }
}

}  // namespace

std::string_view to_string(HiddenActivation activation) {
  switch (activation) {
    case HiddenActivation::gelu:
      return "gelu";
    case HiddenActivation::gelu_tanh:
      return "gelu_tanh";
    case HiddenActivation::relu:
      return "relu";
  }
  return "";
}

HiddenFeatures linear_activation(const Tensor& x, const Tensor& weight, const Tensor& bias,
                                 HiddenActivation activation, bool for_backward) {
  check_linear("linear_activation", x, weight, bias);
  if (auto fused = fused_forward(x, weight, bias, activation, for_backward)) return *fused;
  Tensor sums = linear(x, weight, bias);
  Tensor y = activate(activation, sums);
  const bool keeps_sums = for_backward && activation != HiddenActivation::relu;
  return {std::move(y), keeps_sums ? std::move(sums) : Tensor()};
}

HiddenGrads linear_activation_backward(const Tensor& dy, const Tensor& weight,
                                       const HiddenFeatures& hidden, HiddenActivation activation,
                                       bool want_dbias) {
  constexpr const char* kOp = "linear_activation_backward";
  check_linear_gradient(kOp, dy, weight);
  check_hidden(kOp, dy, weight, hidden, activation);
  if (auto fused = fused_backward(dy, weight, hidden, activation, want_dbias)) return *fused;
  Tensor dsums = activate_backward(activation, linear_backward_input(dy, weight), hidden);
  Tensor dbias = want_dbias ? linear_backward_bias(dsums) : Tensor();
  return {std::move(dsums), std::move(dbias)};
}

bool activation_product_cpu(const ActivationProduct& /*product*/, Stream /*stream*/) {
  return false;
}

void list_linear_activation_ops(OpTable& table) {
  table.add(kActivationProduct, kFloatingTypes,
            {"linear_activation", "linear_activation_backward"});
}

}  // namespace weft
