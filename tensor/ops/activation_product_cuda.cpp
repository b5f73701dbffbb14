// Products of cuBLASLt that end in an activation or in the derivative of one. As in gemm_cuda.cpp
// the library is asked for y^T = weight^T x^T, since it thinks in columns: what it calls the rows
// of D are the features, so that a bias has one element a feature, sums are those over tokens, and
// what an activation leaves for its derivative (aux) has a row a token, like y.
//
// Sums that ride on the derivative come out in y's type. Parameters whose gradients are f32 beside
// half types have theirs from the product for the weight's gradient instead
// (linear_backward_parameters()), which sums what it reads in f32.
#include <memory>

#include "weft/tensor/determinism.h"
#include "weft/tensor/ops/activation.h"
#include "weft/tensor/ops/linear.h"
#include "weft/tensor/ops/unary.h"

#include "cuda/library_check.h"
#include "ops/activation_product.h"
#include "ops/few_rows_cuda.h"
#include "ops/gemm.h"
#include "ops/gemm_layout.h"
#include "ops/gemm_plan_cuda.h"

namespace weft {
namespace {

using cuda::ProductCall;
using cuda::ProductKey;
using cuda::ProductPlan;
using PlanPointer = std::shared_ptr<const ProductPlan>;

constexpr const char* kOp = "linear_activation";

cublasLtEpilogue_t epilogue_of(const ActivationProduct& product) {
  const bool is_relu = product.activation == HiddenActivation::relu;
  if (product.derivative) {
    if (product.sums.defined())
      return is_relu ? CUBLASLT_EPILOGUE_DRELU_BGRAD : CUBLASLT_EPILOGUE_DGELU_BGRAD;
    return is_relu ? CUBLASLT_EPILOGUE_DRELU : CUBLASLT_EPILOGUE_DGELU;
  }
  if (product.saved.defined()) {
    if (product.bias.defined())
      return is_relu ? CUBLASLT_EPILOGUE_RELU_AUX_BIAS : CUBLASLT_EPILOGUE_GELU_AUX_BIAS;
    return is_relu ? CUBLASLT_EPILOGUE_RELU_AUX : CUBLASLT_EPILOGUE_GELU_AUX;
  }
  if (product.bias.defined())
    return is_relu ? CUBLASLT_EPILOGUE_RELU_BIAS : CUBLASLT_EPILOGUE_GELU_BIAS;
  return is_relu ? CUBLASLT_EPILOGUE_RELU : CUBLASLT_EPILOGUE_GELU;
}

/// Distance of two rows of what is saved, as the library counts: bits of relu's mask, else
/// elements.
int64_t saved_leading(const ActivationProduct& product) {
  const int64_t columns = product.saved.size(1);
  return product.activation == HiddenActivation::relu ? 8 * columns : columns;
}

/// Whether the library's rules allow it; whether it has an algorithm is another question.
bool is_allowed(const ActivationProduct& product) {
  // So few rows are for kernels of their own, which linear() has.
  if (!product.derivative && product.x.size(0) <= kMostFewRows) return false;
  if (!product.saved.defined()) return !product.derivative;
  const bool has_whole_rows = product.activation == HiddenActivation::relu
                                  ? saved_leading(product) % 128 == 0
                                  : saved_leading(product) % 8 == 0;
  return has_whole_rows && product.saved.is_contiguous() &&
         cuda::alignment_of(product.saved.raw_data(), 0, product.saved.dtype()) >= 16;
}

int32_t vector_alignment(const Tensor& vector) {
  return vector.defined() ? cuda::alignment_of(vector.raw_data(), 0, vector.dtype()) : 0;
}

/// The key of a product of these matrices without an epilogue.
ProductKey plain_key(const Tensor& a, const Tensor& b, const Tensor& c) {
  return {.device = c.device().index,
          .dtype = a.dtype(),
          .out_dtype = c.dtype(),
          .m = c.size(0),
          .n = c.size(1),
          .k = a.size(1),
          .batch = 1,
          .a = cuda::product_operand(a, 0),
          .b = cuda::product_operand(b, 0),
          .c = cuda::product_operand(c, 0),
          .deterministic = is_deterministic()};
}

/// Sums of y's columns, by a product of their own.
void sum_columns(const ActivationProduct& product, Stream stream) {
  const Tensor& y = product.y;
  Tensor row = product.sums.unsqueeze(0);
  gemm_cuda(ones({1, y.size(0)}, y.dtype(), y.device()), y, row, {}, stream);
}

/// Milliseconds of the pass over memory that the epilogue saves. Elements do not matter.
double milliseconds_of_pass(const ActivationProduct& product, Stream stream) {
  return cuda::time_runs(stream, [&] {
    if (product.activation == HiddenActivation::relu) {
      product.derivative ? unary_backward(UnaryFunction::relu, product.y, product.y)
                         : relu(product.y);
    } else {
      product.derivative ? gelu_backward(product.y, product.saved, Gelu::tanh)
                         : gelu(product.y, Gelu::tanh);
    }
    return true;
  });
}

double milliseconds_of_sums(const ActivationProduct& product, Stream stream) {
  return cuda::time_runs(stream, [&] {
    sum_columns(product, stream);
    return true;
  });
}

}  // namespace

bool activation_product_cuda(const ActivationProduct& product, Stream stream) {
  if (!is_allowed(product)) return false;
  const Tensor& y = product.y;
  const Tensor left = with_dense_axis(product.x);
  const Tensor right = with_dense_axis(low_precision_copy(product.weight, y.dtype()));
  // The row that linear() takes, so that both share a copy.
  const Tensor bias =
      product.bias.defined()
          ? low_precision_copy(product.bias.contiguous().view({1, y.size(1)}), y.dtype())
          : Tensor();
  cuda::DeviceContext& context = cuda::device_context(stream.device());
  const cuda::DeviceGuard guard(stream.device().index);  // the library works on the current one

  const Tensor& vector = product.derivative ? product.sums : bias;
  const ProductCall call{.a = left.raw_data(),
                         .b = right.raw_data(),
                         .c = y.raw_data(),
                         .vector = vector.defined() ? vector.raw_data() : nullptr,
                         .aux = product.saved.defined() ? product.saved.raw_data() : nullptr,
                         .handle = context.cublas_lt(),
                         .workspace = context.cublas_workspace(stream),
                         .stream = stream};

  // What the fused product is measured against: without the activation, and with it but without
  // the sums.
  ProductKey plain = plain_key(left, right, y);
  ProductKey activated = plain;
  if (product.saved.defined()) {
    activated.aux_leading = saved_leading(product);
    activated.aux_alignment = cuda::alignment_of(call.aux, 0, product.saved.dtype());
  }
  if (bias.defined()) {
    plain.epilogue = CUBLASLT_EPILOGUE_BIAS;
    plain.vector_alignment = activated.vector_alignment = vector_alignment(bias);
  }
  ActivationProduct without_sums = product;
  without_sums.sums = {};
  activated.epilogue = epilogue_of(without_sums);

  const auto milliseconds_apart = [&] {
    const double ms = cuda::product_plan(plain, call)->milliseconds;
    return ms > 0 ? ms + milliseconds_of_pass(product, stream) : 0;
  };
  const auto activated_plan = [&] {
    return cuda::product_plan(activated, call, milliseconds_apart);
  };
  if (product.sums.defined()) {
    ProductKey summed = activated;
    summed.epilogue = epilogue_of(product);
    summed.vector_alignment = vector_alignment(product.sums);
    const PlanPointer plan = cuda::product_plan(summed, call, [&] {
      const PlanPointer other = activated_plan();
      const double ms = other->supported() ? other->milliseconds : milliseconds_apart();
      return ms > 0 ? ms + milliseconds_of_sums(product, stream) : 0;
    });
    if (plan->supported()) {
      cuda::run_product(summed, *plan, call);
      cuda::check_library_work(kOp, stream);
      return true;
    }
  }
  const PlanPointer plan = activated_plan();
  if (!plan->supported()) return false;
  cuda::run_product(activated, *plan, call);
  cuda::check_library_work(kOp, stream);
  if (product.sums.defined()) sum_columns(product, stream);
  return true;
}

}  // namespace weft
