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
// it, unless timing shows that two products are faster. The library's activations do not serve: its
// GELU is the approximation by tanh, while the layers here have the exact one, or gate (SwiGLU)
// what two products give.
//
// The library guesses which of its algorithms is fastest; for large products the first few of its
// guesses are timed once for each shape. Where results must repeat to the bit its first guess is
// taken, since timings differ from run to run.
#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <memory>
#include <vector>

#include <cublasLt.h>

#include "weft/tensor/check.h"
#include "weft/tensor/determinism.h"
#include "weft/tensor/error.h"
#include "weft/tensor/ops/arithmetic.h"
#include "weft/tensor/ops/linear.h"

#include "cuda/cublas_error.h"
#include "cuda/device_context.h"
#include "cuda/library_check.h"
#include "ops/few_rows_cuda.h"
#include "ops/gemm.h"
#include "ops/gemm_layout.h"
#include "ops/lru_cache.h"

namespace weft {
namespace {

cudaDataType_t library_type(DType dtype) {
  switch (dtype) {
    case DType::f64:
      return CUDA_R_64F;
    case DType::f32:
      return CUDA_R_32F;
    case DType::bf16:
      return CUDA_R_16BF;
    case DType::f16:
      return CUDA_R_16F;
    default:
      throw_error<DTypeError>("matmul: takes f64, f32, bf16 and f16, got {}", dtype);
  }
}

struct DescriptorDeleter {
  void operator()(cublasLtMatmulDescOpaque_t* it) const { cublasLtMatmulDescDestroy(it); }
  void operator()(cublasLtMatrixLayoutOpaque_t* it) const { cublasLtMatrixLayoutDestroy(it); }
  void operator()(cublasLtMatmulPreferenceOpaque_t* it) const {
    cublasLtMatmulPreferenceDestroy(it);
  }
};
using MatmulDescriptor = std::unique_ptr<cublasLtMatmulDescOpaque_t, DescriptorDeleter>;
using LayoutDescriptor = std::unique_ptr<cublasLtMatrixLayoutOpaque_t, DescriptorDeleter>;
using PreferenceDescriptor = std::unique_ptr<cublasLtMatmulPreferenceOpaque_t, DescriptorDeleter>;

/// How an operand lies in memory, as the library sees it.
struct OperandKey {
  int64_t leading = 0;       // distance of two of the library's columns
  int64_t batch_stride = 0;  // elements
  int32_t alignment = 0;     // bytes, at most 256
  bool transposed = false;   // the library has to turn it

  friend bool operator==(const OperandKey&, const OperandKey&) = default;
};

/// A vector that a product works on besides its matrices.
enum class Vector : uint8_t {
  none,
  bias,      // added to each row of c
  row_sums,  // becomes the sums of a's rows
};

/// All that the choice of an algorithm depends on.
struct PlanKey {
  int device = 0;
  DType dtype = DType::f32, out_dtype = DType::f32;
  int64_t m = 0, n = 0, k = 0, batch = 0;
  OperandKey a, b, c;
  Vector vector = Vector::none;
  int32_t vector_alignment = 0;  // bytes, at most 256
  bool deterministic = false;    // the choice must not depend on timings

  friend bool operator==(const PlanKey&, const PlanKey&) = default;
};

struct PlanKeyHash {
  size_t operator()(const PlanKey& key) const {
    size_t hash = 0;
    const auto mix = [&](int64_t value) {
      hash = (hash ^ static_cast<size_t>(value)) * 0x9e3779b97f4a7c15u;
      hash ^= hash >> 29;
    };
    const auto mix_operand = [&](const OperandKey& operand) {
      mix(operand.leading);
      mix(operand.batch_stride);
      mix(operand.alignment * 2 + operand.transposed);
    };
    mix(key.device);
    mix(static_cast<int64_t>(key.dtype) * 64 + static_cast<int64_t>(key.out_dtype) * 4 +
        key.deterministic);
    mix(static_cast<int64_t>(key.vector) * 512 + key.vector_alignment);
    for (const int64_t size : {key.m, key.n, key.k, key.batch}) mix(size);
    for (const OperandKey& operand : {key.a, key.b, key.c}) mix_operand(operand);
    return hash;
  }
};

/// A product that the library is ready to run.
struct Plan {
  MatmulDescriptor product;
  LayoutDescriptor left, right, out;
  std::vector<cublasLtMatmulAlgo_t> algorithms;  // the first is to be used; none: unsupported
  double milliseconds = 0;                       // of a run, where it was timed

  bool supported() const { return !algorithms.empty(); }
};

/// Where the operands of a product lie and what it runs with.
struct Call {
  const void* a;
  const void* b;
  void* c;
  void* vector;  // null without one
  double alpha, beta;
  cublasLtHandle_t handle;
  cuda::Workspace workspace;
  Stream stream;
};

LayoutDescriptor make_layout(DType dtype, int64_t rows, int64_t columns, const OperandKey& operand,
                             int64_t batch) {
  cublasLtMatrixLayout_t raw = nullptr;
  WEFT_CUBLAS_CHECK(cublasLtMatrixLayoutCreate(&raw, library_type(dtype),
                                               static_cast<uint64_t>(rows),
                                               static_cast<uint64_t>(columns), operand.leading));
  LayoutDescriptor layout(raw);
  if (batch > 1) {
    const auto count = static_cast<int32_t>(batch);
    WEFT_CUBLAS_CHECK(cublasLtMatrixLayoutSetAttribute(raw, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT,
                                                       &count, sizeof(count)));
    WEFT_CUBLAS_CHECK(
        cublasLtMatrixLayoutSetAttribute(raw, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
                                         &operand.batch_stride, sizeof(operand.batch_stride)));
  }
  return layout;
}

template <class Value>
void set_product_attribute(const MatmulDescriptor& product, cublasLtMatmulDescAttributes_t name,
                           Value value) {
  WEFT_CUBLAS_CHECK(cublasLtMatmulDescSetAttribute(product.get(), name, &value, sizeof(value)));
}

template <class Value>
void set_preference(const PreferenceDescriptor& preference,
                    cublasLtMatmulPreferenceAttributes_t name, Value value) {
  WEFT_CUBLAS_CHECK(
      cublasLtMatmulPreferenceSetAttribute(preference.get(), name, &value, sizeof(value)));
}

/// What is computed, with the key's vector at an address.
MatmulDescriptor make_product(const PlanKey& key, void* vector) {
  const bool is_double = key.dtype == DType::f64;
  cublasLtMatmulDesc_t raw = nullptr;
  WEFT_CUBLAS_CHECK(cublasLtMatmulDescCreate(&raw,
                                             is_double ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F,
                                             is_double ? CUDA_R_64F : CUDA_R_32F));
  MatmulDescriptor product(raw);
  const auto turn = [](const OperandKey& operand) {
    return static_cast<int32_t>(operand.transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
  };
  set_product_attribute(product, CUBLASLT_MATMUL_DESC_TRANSA, turn(key.b));
  set_product_attribute(product, CUBLASLT_MATMUL_DESC_TRANSB, turn(key.a));
  if (key.vector != Vector::none) {
    // a is the library's second operand.
    const auto epilogue =
        key.vector == Vector::bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_BGRADB;
    set_product_attribute(product, CUBLASLT_MATMUL_DESC_EPILOGUE, static_cast<int32_t>(epilogue));
    set_product_attribute(product, CUBLASLT_MATMUL_DESC_BIAS_POINTER, vector);
  }
  return product;
}

Plan make_plan(const PlanKey& key, const Call& call, int most_algorithms) {
  Plan plan;
  // The library takes the alignment of the vector from its address.
  plan.product = make_product(key, call.vector);
  const auto layout = [&](DType dtype, int64_t rows, int64_t columns, const OperandKey& operand) {
    if (operand.transposed) std::swap(rows, columns);
    return make_layout(dtype, rows, columns, operand, key.batch);
  };
  plan.left = layout(key.dtype, key.n, key.k, key.b);
  plan.right = layout(key.dtype, key.k, key.m, key.a);
  plan.out = layout(key.out_dtype, key.n, key.m, key.c);

  cublasLtMatmulPreference_t raw_preference = nullptr;
  WEFT_CUBLAS_CHECK(cublasLtMatmulPreferenceCreate(&raw_preference));
  const PreferenceDescriptor preference(raw_preference);
  set_preference(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, call.workspace.bytes);
  // Parts of a long sum meet in the type of the sums, never rounded to that of the result.
  set_preference(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                 static_cast<uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
  set_preference(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
                 static_cast<uint32_t>(key.b.alignment));
  set_preference(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                 static_cast<uint32_t>(key.a.alignment));
  set_preference(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
                 static_cast<uint32_t>(key.c.alignment));
  set_preference(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
                 static_cast<uint32_t>(key.c.alignment));

  std::vector<cublasLtMatmulHeuristicResult_t> choices(static_cast<size_t>(most_algorithms));
  int found = 0;
  const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
      call.handle, plan.product.get(), plan.left.get(), plan.right.get(), plan.out.get(),
      plan.out.get(), preference.get(), most_algorithms, choices.data(), &found);
  if (status != CUBLAS_STATUS_SUCCESS) found = 0;
  for (int i = 0; i < found; ++i) {
    const cublasLtMatmulHeuristicResult_t& choice = choices[static_cast<size_t>(i)];
    if (choice.state == CUBLAS_STATUS_SUCCESS) plan.algorithms.push_back(choice.algo);
  }
  return plan;
}

cublasStatus_t run_product(const PlanKey& key, const Plan& plan,
                           const cublasLtMatmulAlgo_t& algorithm, const Call& call) {
  const float alpha32 = static_cast<float>(call.alpha);
  const float beta32 = static_cast<float>(call.beta);
  const bool is_double = key.dtype == DType::f64;
  // Plans are shared by threads, so a product that carries an address is made anew.
  const bool has_vector = key.vector != Vector::none;
  const MatmulDescriptor with_vector =
      has_vector ? make_product(key, call.vector) : MatmulDescriptor();
  return cublasLtMatmul(call.handle, (has_vector ? with_vector : plan.product).get(),
                        is_double ? static_cast<const void*>(&call.alpha) : &alpha32, call.b,
                        plan.left.get(), call.a, plan.right.get(),
                        is_double ? static_cast<const void*>(&call.beta) : &beta32, call.c,
                        plan.out.get(), call.c, plan.out.get(), &algorithm, call.workspace.data,
                        call.workspace.bytes, cuda::native(call.stream));
}

/// Milliseconds of the work that run() puts on the stream, or 0 where run() gives false.
template <class Run>
double time_runs(Stream stream, Run&& run) {
  constexpr int kRuns = 3;
  if (!run()) return 0;
  Event begin(stream.device(), /*timed=*/true), end(stream.device(), /*timed=*/true);
  begin.record(stream);
  for (int repeat = 0; repeat < kRuns; ++repeat) run();
  end.record(stream);
  end.synchronize();
  return begin.milliseconds_to(end) / kRuns;
}

/// Keeps the fastest of the plan's algorithms, by running each on a copy of the result's shape.
void tune(const PlanKey& key, Plan& plan, Call call) {
  const int64_t last_matrix = (key.batch - 1) * key.c.batch_stride;
  const int64_t elements = last_matrix + (key.m - 1) * key.c.leading + key.n;
  const Tensor scratch = zeros({elements}, key.out_dtype, call.stream.device());
  call.c = scratch.raw_data();
  size_t best = 0;
  for (size_t i = 0; i < plan.algorithms.size(); ++i) {
    const double ms = time_runs(call.stream, [&] {
      return run_product(key, plan, plan.algorithms[i], call) == CUBLAS_STATUS_SUCCESS;
    });
    if (ms > 0 && (plan.milliseconds == 0 || ms < plan.milliseconds)) {
      best = i;
      plan.milliseconds = ms;
    }
  }
  plan.algorithms = {plan.algorithms[best]};
}

/// Whether timing the algorithms can pay and is possible now.
bool is_worth_tuning(const PlanKey& key, Stream stream) {
  constexpr double kLeastFlops = 2e9;
  const double flops = 2.0 * static_cast<double>(key.m) * static_cast<double>(key.n) *
                       static_cast<double>(key.k) * static_cast<double>(key.batch);
  return flops >= kLeastFlops && !key.deterministic && !cuda::is_capturing(stream);
}

std::shared_ptr<Plan> choose_plan(const PlanKey& key, const Call& call) {
  const bool tuned = is_worth_tuning(key, call.stream);
  auto plan = std::make_shared<Plan>(make_plan(key, call, tuned ? 8 : 1));
  if (tuned && plan->supported()) {
    try {
      tune(key, *plan, call);
    } catch (const OutOfMemoryError&) {  // no room to try: the library's first guess it is
    }
  }
  return plan;
}

LruCache<PlanKey, std::shared_ptr<const Plan>, PlanKeyHash>& plans() {
  static LruCache<PlanKey, std::shared_ptr<const Plan>, PlanKeyHash> cache(4096);
  return cache;
}

/// The largest power of two up to 256 that divides the addresses of all matrices of a batch.
int32_t alignment_of(const void* data, int64_t batch_stride, DType dtype) {
  const auto address = reinterpret_cast<uintptr_t>(data);
  const uintptr_t bits =
      address | (static_cast<uintptr_t>(batch_stride) * size_of(dtype)) | uintptr_t{256};
  return static_cast<int32_t>(uintptr_t{1} << std::countr_zero(bits));
}

OperandKey operand_key(const Tensor& matrix, int64_t batch_stride) {
  OperandKey key;
  key.transposed = !has_dense_rows(matrix);
  key.leading = leading_size(key.transposed ? matrix.transpose(-1, -2) : matrix);
  key.batch_stride = batch_stride;
  key.alignment = alignment_of(matrix.raw_data(), batch_stride, matrix.dtype());
  return key;
}

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
/// be added afterwards.
Tensor epilogue_bias(const GemmEpilogue& epilogue, const Tensor& c) {
  const Tensor& bias = epilogue.bias;
  if (!bias.defined() || c.dtype() == DType::f64) return {};
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

PlanKey without_vector(PlanKey key) {
  key.vector = Vector::none;
  key.vector_alignment = 0;
  return key;
}

/// Whether a product that sums a's rows as well takes longer than two products.
bool is_slower_than_parts(const Plan& whole, const Plan& product, const Tensor& a, Stream stream) {
  const Tensor sums = empty({a.size(0)}, a.dtype(), a.device());
  const double sums_ms = time_runs(stream, [&] {
    sum_rows(a, sums, stream);
    return true;
  });
  return product.milliseconds > 0 && whole.milliseconds > product.milliseconds + sums_ms;
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

    PlanKey key{.device = stream.device().index,
                .dtype = left.dtype(),
                .out_dtype = c.dtype(),
                .m = c.size(-2),
                .n = c.size(-1),
                .k = left.size(-1),
                .batch = std::min(inner, kMostMatrices),
                .a = operand_key(left, batch_stride(1)),
                .b = operand_key(right, batch_stride(2)),
                .c = operand_key(c, batch_stride(0)),
                .vector = fuse_sums        ? Vector::row_sums
                          : bias.defined() ? Vector::bias
                                           : Vector::none,
                .vector_alignment =
                    vector.defined() ? alignment_of(vector.raw_data(), 0, vector.dtype()) : 0,
                .deterministic = is_deterministic()};
    Call call{.a = nullptr,
              .b = nullptr,
              .c = nullptr,
              .vector = vector.defined() ? vector.raw_data() : nullptr,
              .alpha = epilogue.alpha,
              .beta = epilogue.beta,
              .handle = context.cublas_lt(),
              .workspace = context.cublas_workspace(stream),
              .stream = stream};
    const auto plan_for = [&](const PlanKey& wanted) {
      return plans().get_or_make(wanted, [&] { return choose_plan(wanted, call); });
    };
    const auto plan_with_sums = [&] {
      return plans().get_or_make(key, [&] {
        auto plan = choose_plan(key, call);
        const bool timed = plan->milliseconds > 0;
        if (timed && is_slower_than_parts(*plan, *plan_for(without_vector(key)), a, stream))
          plan->algorithms.clear();
        return std::shared_ptr<const Plan>(std::move(plan));
      });
    };
    for (int64_t index = 0; index < loop.shape.numel();) {
      key.batch = std::min({inner - index % inner, inner, kMostMatrices});
      const auto [c_offset, a_offset, b_offset] = batch_offsets(loop, index);
      call.a = advance(left, a_offset);
      call.b = advance(right, b_offset);
      call.c = const_cast<char*>(advance(c, c_offset));
      key.a.alignment = alignment_of(call.a, key.a.batch_stride, key.dtype);
      key.b.alignment = alignment_of(call.b, key.b.batch_stride, key.dtype);
      key.c.alignment = alignment_of(call.c, key.c.batch_stride, key.out_dtype);
      std::shared_ptr<const Plan> plan = fuse_sums ? plan_with_sums() : plan_for(key);
      if (!plan->supported() && key.vector != Vector::none) {  // none for these, or slower
        add_bias = key.vector == Vector::bias;
        fuse_sums = false;
        key = without_vector(key);
        plan = plan_for(key);
      }
      WEFT_CHECK(plan->supported(), NotImplementedError,
                 "matmul: cuBLASLt has no algorithm for {} x {} into {}", a, b, c);
      WEFT_CUBLAS_CHECK(run_product(key, *plan, plan->algorithms.front(), call));
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
