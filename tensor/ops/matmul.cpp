#include "weft/tensor/ops/matmul.h"

#include <algorithm>
#include <span>
#include <utility>

#include "weft/tensor/check.h"
#include "weft/tensor/kernel.h"

#include "ops/gemm.h"
#include "ops/op_list.h"

namespace weft {
namespace {

constexpr Kernel<void(const Tensor&, const Tensor&, Tensor&, const GemmEpilogue&, Stream)> kGemm{
    "matmul", &gemm_cpu, WEFT_CUDA_KERNEL(gemm_cuda)};

/// A product with both operands brought to [batch..., M, K] and [batch..., K, N].
struct Product {
  Tensor a, b;
  Shape matrix_shape;  // [batch..., M, N]
  Shape shape;         // what the user sees: without the axes added to vectors
};

Shape batch_of(const Tensor& matrix) {
  return Shape(std::span(matrix.shape().begin(), static_cast<size_t>(matrix.rank() - 2)));
}

Tensor expand_batch(const Tensor& matrix, const Shape& batch) {
  Shape shape = batch;
  shape.push_back(matrix.size(-2));
  shape.push_back(matrix.size(-1));
  return shape == matrix.shape() ? matrix : matrix.expand(shape);
}

Product prepare(const char* op, const Tensor& a, const Tensor& b, const MatmulOptions& options) {
  WEFT_CHECK(a.defined() && b.defined(), ShapeError, "{}: operand a is {}, b is {}", op, a, b);
  WEFT_CHECK(a.device() == b.device(), DeviceError, "{}: operands on two devices: a {}, b {}", op,
             a, b);
  WEFT_CHECK(is_floating(a.dtype()) && a.dtype() == b.dtype(), DTypeError,
             "{}: operands must have one type of f64, f32, bf16, f16; got a {}, b {}", op, a, b);
  WEFT_CHECK(a.rank() >= 1 && b.rank() >= 1, ShapeError,
             "{}: operands need at least one axis, got a {}, b {}", op, a, b);
  WEFT_CHECK((a.rank() >= 2 || !options.transpose_a) && (b.rank() >= 2 || !options.transpose_b),
             ShapeError, "{}: a vector cannot be transposed; got a {}, b {}", op, a, b);
  Product product;
  product.a = a.rank() == 1 ? a.unsqueeze(0) : options.transpose_a ? a.transpose(-1, -2) : a;
  product.b = b.rank() == 1 ? b.unsqueeze(1) : options.transpose_b ? b.transpose(-1, -2) : b;
  WEFT_CHECK(product.a.size(-1) == product.b.size(-2), ShapeError,
             "{}: inner sizes {} and {} differ; got a {}{}, b {}{}", op, product.a.size(-1),
             product.b.size(-2), a, options.transpose_a ? " (transposed)" : "", b,
             options.transpose_b ? " (transposed)" : "");
  const Shape batch = broadcast_shapes(op, batch_of(product.a), batch_of(product.b));
  product.a = expand_batch(product.a, batch);
  product.b = expand_batch(product.b, batch);
  product.matrix_shape = batch;
  product.matrix_shape.push_back(product.a.size(-2));
  product.matrix_shape.push_back(product.b.size(-1));
  product.shape = product.matrix_shape;
  if (b.rank() == 1) product.shape.erase(product.shape.rank() - 1);
  if (a.rank() == 1) product.shape.erase(product.shape.rank() - (b.rank() == 1 ? 1 : 2));
  return product;
}

void check_out_dtype(const char* op, DType out, DType operands) {
  WEFT_CHECK(out == operands || (out == DType::f32 && operands != DType::f64), DTypeError,
             "{}: operands of {} cannot give {}; allowed is {}{}", op, operands, out, operands,
             operands == DType::bf16 || operands == DType::f16 ? " or f32" : "");
}

/// [batch..., M, K] as one matrix [batch * M, K], or undefined where its axes are not dense enough.
Tensor fold_batch(const Tensor& tensor) {
  int64_t rows = 1;
  int64_t step = 0;  // stride of the folded axis, once known
  for (int axis = tensor.rank() - 2; axis >= 0; --axis) {
    const int64_t size = tensor.shape()[axis];
    if (size == 1) continue;
    if (step == 0) step = tensor.strides()[axis];
    if (step == 0 || tensor.strides()[axis] != step * rows) return {};
    rows *= size;
  }
  const Layout folded{{rows, tensor.size(-1)}, {step, tensor.stride(-1)}, tensor.offset()};
  return {tensor.storage(), folded, tensor.dtype()};
}

bool repeats_over_batch(const Tensor& tensor) {
  for (int axis = 0; axis < tensor.rank() - 2; ++axis) {
    if (tensor.shape()[axis] != 1 && tensor.strides()[axis] != 0) return false;
  }
  return true;
}

void run(const Product& product, Tensor out, const GemmEpilogue& epilogue) {
  if (out.numel() == 0) return;
  // x [batch..., M, K] times one matrix is a single tall product.
  if (out.rank() > 2 && repeats_over_batch(product.b)) {
    const Tensor a = fold_batch(product.a);
    Tensor c = fold_batch(out);
    if (a.defined() && c.defined()) {
      Tensor b = product.b;
      while (b.rank() > 2) b = b.select(0, 0);
      gemm(a, b, c, epilogue);
      return;
    }
  }
  gemm(product.a, product.b, out, epilogue);
}

/// Bytes of its storage that a tensor spans: [first, last).
std::pair<int64_t, int64_t> byte_span(const Tensor& tensor) {
  int64_t last = tensor.offset();
  for (int axis = 0; axis < tensor.rank(); ++axis)
    last += (tensor.shape()[axis] - 1) * tensor.strides()[axis];
  const auto bytes = static_cast<int64_t>(size_of(tensor.dtype()));
  return {tensor.offset() * bytes, (last + 1) * bytes};
}

bool may_overlap(const Tensor& a, const Tensor& b) {
  if (a.storage() != b.storage() || a.numel() == 0 || b.numel() == 0) return false;
  const auto [a_first, a_last] = byte_span(a);
  const auto [b_first, b_last] = byte_span(b);
  return a_first < b_last && b_first < a_last;
}

}  // namespace

void gemm(const Tensor& a, const Tensor& b, Tensor& c, const GemmEpilogue& epilogue) {
  if (c.numel() == 0) return;
  kGemm(c.device())(a, b, c, epilogue, current_stream(c.device()));
}

Tensor matmul(const Tensor& a, const Tensor& b, const MatmulOptions& options) {
  const Product product = prepare("matmul", a, b, options);
  const DType dtype = options.out_dtype.value_or(a.dtype());
  check_out_dtype("matmul", dtype, a.dtype());
  const Tensor out = empty(product.matrix_shape, dtype, a.device());
  run(product, out, {.alpha = options.alpha, .beta = 0});
  return out.view(product.shape);
}

void matmul_into(Tensor& out, const Tensor& a, const Tensor& b, double beta,
                 const MatmulOptions& options) {
  const Product product = prepare("matmul_into", a, b, options);
  WEFT_CHECK(out.defined() && out.shape() == product.shape, ShapeError,
             "matmul_into: the product of a {} and b {} has shape {}, out is {}", a, b,
             product.shape, out);
  WEFT_CHECK(out.device() == a.device(), DeviceError, "matmul_into: operands {}, out {}", a, out);
  check_out_dtype("matmul_into", out.dtype(), a.dtype());
  WEFT_CHECK(!options.out_dtype || *options.out_dtype == out.dtype(), DTypeError,
             "matmul_into: out_dtype is {}, out is {}", options.out_dtype.value_or(out.dtype()),
             out);
  WEFT_CHECK(!may_overlap(out, a) && !may_overlap(out, b), ConfigError,
             "matmul_into: out {} overlaps an operand", out);
  for (int axis = 0; axis < out.rank(); ++axis) {
    WEFT_CHECK(out.strides()[axis] != 0 || out.shape()[axis] <= 1, ShapeError,
               "matmul_into: out {} repeats elements (stride 0 on axis {}) and cannot be written",
               out, axis);
  }
  Tensor target = out;
  if (b.rank() == 1) target = target.unsqueeze(-1);
  if (a.rank() == 1) target = target.unsqueeze(-2);
  run(product, target, {.alpha = options.alpha, .beta = beta});
  out.storage()->bump_version();
}

bool has_fast_bf16_matmul(Device device) {
  if (device.is_cuda()) return true;  // tensor cores, from compute capability 8.0 on
#if defined(WEFT_HAVE_ONEDNN) && defined(__x86_64__)
  return __builtin_cpu_supports("avx512bf16") != 0;  // what oneDNN looks for
#else
  return false;
#endif
}

void list_matmul_ops(OpTable& table) {
  table.add(kGemm, kFloatingTypes);
}

}  // namespace weft
