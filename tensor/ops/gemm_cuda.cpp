// Matrix products on the GPU, through cuBLASLt. The library thinks in columns: a matrix with dense
// rows is, to it, the transpose with dense columns. So c = a b is asked for as c^T = b^T a^T, which
// leaves all matrices where they are; "left" and "right" below are b and a.
//
// Sums are kept in float (double for f64). Where c or a bias is added to a product of half types,
// some of the library's algorithms round the product to the type of the result first, so that the
// result can be wrong by half a unit of the product besides half a unit of its own. On Hopper these
// are the ones for aligned operands, where beta is 1, and for bf16 those that add a bias to sums
// made in parts. Nothing in the library's description of an algorithm tells them apart.
//
// Vectors ride on a product where they can: a bias is added to its result, and the gradient of a
// bias, the sums of dy that the product for the weight's gradient reads anyway, comes out beside
// it, unless timing shows that two products are faster. Activations that ride on a product have a
// file of their own, activation_product_cuda.cpp.
//
// The library guesses which of its algorithms is fastest; for large products the first few of its
// guesses are timed once for each shape (gemm_plan_cuda.cpp). Where results must repeat to the bit
// its first guess is taken, since timings differ from run to run.
#include <algorithm>
#include <cstdint>
#include <memory>

#include "weft/tensor/check.h"
#include "weft/tensor/determinism.h"
#include "weft/tensor/error.h"
#include "weft/tensor/ops/arithmetic.h"
#include "weft/tensor/ops/linear.h"

#include "cuda/library_check.h"
#include "ops/few_rows_cuda.h"
#include "ops/gemm.h"
#include "ops/gemm_layout.h"
#include "ops/gemm_plan_cuda.h"

namespace weft {
namespace {

using cuda::ProductCall;
using cuda::ProductKey;
using cuda::ProductPlan;

const char* advance(const Tensor& tensor, int64_t elements) {
  return static_cast<const char*>(tensor.raw_data()) +
         elements * static_cast<int64_t>(size_of(tensor.dtype()));
}

/// c = beta c, for sums of no products.
void scale_in_place(Tensor& c, double beta) {
  if (beta == 0) {
    c.zero_();
  } else if (beta != 1) {
    mul_(c, beta);
  }
}

/// The bias as the library's epilogue takes it (a row, in c's type), or undefined where it has to
/// be added afterwards: also of several matrices, since some calls might have no algorithm with it.
Tensor epilogue_bias(const GemmEpilogue& epilogue, const Tensor& c) {
  const Tensor& bias = epilogue.bias;
  if (!bias.defined() || c.rank() != 2 || c.dtype() == DType::f64) return {};
  if (bias.size(0) != 1 || bias.size(1) != c.size(-1)) return {};
  return bias.to(c.dtype()).contiguous();
}

/// Whether a product into c can make the sums of a's rows.
bool has_row_sums(const GemmEpilogue& epilogue, const Tensor& c) {
  return epilogue.row_sums.defined() && !epilogue.bias.defined() && c.rank() == 2 &&
         c.dtype() != DType::f64;
}

/// The sums of a's rows by a product of their own.
void sum_rows(const Tensor& a, const Tensor& sums, Stream stream) {
  Tensor row = sums.unsqueeze(0);
  gemm_cuda(ones({1, a.size(-1)}, a.dtype(), a.device()), a.transpose(-1, -2), row, {}, stream);
}

ProductKey without_vector(ProductKey key) {
  key.epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  key.vector_alignment = 0;
  return key;
}

/// Milliseconds of a product and of the sums of a's rows by another one; 0: not known.
double milliseconds_apart(const ProductPlan& product, const Tensor& a, Stream stream) {
  if (product.milliseconds == 0) return 0;
  const Tensor sums = empty({a.size(0)}, a.dtype(), a.device());
  return product.milliseconds + cuda::time_runs(stream, [&] {
           sum_rows(a, sums, stream);
           return true;
         });
}

}  // namespace

void gemm_cuda(const Tensor& a, const Tensor& b, Tensor& c, const GemmEpilogue& epilogue,
               Stream stream) {
  if (!has_dense_rows(c)) {
    Tensor flipped = c.transpose(-1, -2);
    if (has_dense_rows(flipped)) {  // c^T = b^T a^T
      GemmEpilogue turned = epilogue;
      if (turned.bias.defined()) turned.bias = turned.bias.transpose(0, 1);
      turned.row_sums = {};
      gemm_cuda(b.transpose(-1, -2), a.transpose(-1, -2), flipped, turned, stream);
      if (epilogue.row_sums.defined()) sum_rows(a, epilogue.row_sums, stream);
    } else {
      Tensor dense = epilogue.beta == 0 ? empty(c.shape(), c.dtype(), c.device()) : c.clone();
      gemm_cuda(a, b, dense, epilogue, stream);
      c.copy_(dense);
    }
    return;
  }
  Tensor bias = epilogue_bias(epilogue, c);
  bool add_bias = epilogue.bias.defined() && !bias.defined();
  bool fuse_sums = has_row_sums(epilogue, c);
  if (a.size(-1) == 0) {
    fuse_sums = false;
    scale_in_place(c, epilogue.beta);
    add_bias = epilogue.bias.defined();
  } else {
    const Tensor left = with_dense_axis(a), right = with_dense_axis(b);
    const BatchLoop loop = make_batch_loop(c, left, right);
    const int last = loop.shape.rank() - 1;
    constexpr int64_t kMostMatrices = 65535;  // of one call
    const int64_t inner = loop.shape[last];
    // Of a single matrix there is none that could spoil its alignment.
    const auto batch_stride = [&](size_t operand) {
      return inner > 1 ? loop.strides[operand][last] : 0;
    };
    const Tensor& vector = fuse_sums ? epilogue.row_sums : bias;
    cuda::DeviceContext& context = cuda::device_context(stream.device());
    const cuda::DeviceGuard guard(stream.device().index);  // the library works on the current one

    ProductKey key{
        .device = stream.device().index,
        .dtype = left.dtype(),
        .out_dtype = c.dtype(),
        .m = c.size(-2),
        .n = c.size(-1),
        .k = left.size(-1),
        .batch = std::min(inner, kMostMatrices),
        .a = cuda::product_operand(left, batch_stride(1)),
        .b = cuda::product_operand(right, batch_stride(2)),
        .c = cuda::product_operand(c, batch_stride(0)),
        // a is the library's second operand.
        .epilogue = fuse_sums        ? CUBLASLT_EPILOGUE_BGRADB
                    : bias.defined() ? CUBLASLT_EPILOGUE_BIAS
                                     : CUBLASLT_EPILOGUE_DEFAULT,
        .vector_alignment =
            vector.defined() ? cuda::alignment_of(vector.raw_data(), 0, vector.dtype()) : 0,
        .deterministic = is_deterministic()};
    ProductCall call{.vector = vector.defined() ? vector.raw_data() : nullptr,
                     .alpha = epilogue.alpha,
                     .beta = epilogue.beta,
                     .handle = context.cublas_lt(),
                     .workspace = context.cublas_workspace(stream),
                     .stream = stream};
    const auto plan_with_sums = [&] {
      return cuda::product_plan(key, call, [&] {
        return milliseconds_apart(*cuda::product_plan(without_vector(key), call), a, stream);
      });
    };
    for (int64_t index = 0; index < loop.shape.numel();) {
      key.batch = std::min({inner - index % inner, inner, kMostMatrices});
      const auto [c_offset, a_offset, b_offset] = batch_offsets(loop, index);
      call.a = advance(left, a_offset);
      call.b = advance(right, b_offset);
      call.c = const_cast<char*>(advance(c, c_offset));
      key.a.alignment = cuda::alignment_of(call.a, key.a.batch_stride, key.dtype);
      key.b.alignment = cuda::alignment_of(call.b, key.b.batch_stride, key.dtype);
      key.c.alignment = cuda::alignment_of(call.c, key.c.batch_stride, key.out_dtype);
      std::shared_ptr<const ProductPlan> plan =
          fuse_sums ? plan_with_sums() : cuda::product_plan(key, call);
      if (!plan->supported() && key.vector_alignment > 0) {  // none for these, or slower
        add_bias = key.epilogue == CUBLASLT_EPILOGUE_BIAS;
        fuse_sums = false;
        key = without_vector(key);
        plan = cuda::product_plan(key, call);
      }
      WEFT_CHECK(plan->supported(), NotImplementedError,
                 "matmul: cuBLASLt has no algorithm for {} x {} into {}", a, b, c);
      cuda::run_product(key, *plan, call);
      cuda::check_library_work("matmul", stream);
      index += key.batch;
    }
  }
  if (epilogue.row_sums.defined() && !fuse_sums) sum_rows(a, epilogue.row_sums, stream);
  if (add_bias) {
    // The row or column, added in c's type.
    Tensor row = epilogue.bias.to(c.dtype());
    add_(c, row);
  }
}

void gemm_weight_cuda(const Tensor& x, const Tensor& weight, Tensor& y, const Tensor& bias,
                      Stream stream) {
  const Tensor copy = low_precision_copy(weight, x.dtype());
  if (x.size(0) <= kMostFewRows && has_dense_rows(copy.transpose(0, 1))) {
    FewRowsParams params;
    params.x = x;
    params.weight = copy.transpose(0, 1);
    params.bias = bias;
    params.y = y;
    if (few_rows_product_cuda(params, stream)) return;
  }
  // As a master's, the copy of a bias is kept, so that no pass converts it each time.
  const bool is_half = x.dtype() == DType::bf16 || x.dtype() == DType::f16;
  const Tensor row = bias.defined() && is_half ? low_precision_copy(bias, x.dtype()) : bias;
  gemm_cuda(x, copy, y, {.bias = row}, stream);
}

}  // namespace weft
