#include "ops/gemm_plan_cuda.h"

#include <bit>
#include <utility>

#include "weft/tensor/check.h"
#include "weft/tensor/error.h"

#include "cuda/cublas_error.h"
#include "ops/gemm_layout.h"
#include "ops/lru_cache.h"

namespace weft::cuda {
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

struct PreferenceDeleter {
  void operator()(cublasLtMatmulPreferenceOpaque_t* it) const {
    cublasLtMatmulPreferenceDestroy(it);
  }
};
using Preference = std::unique_ptr<cublasLtMatmulPreferenceOpaque_t, PreferenceDeleter>;

struct ProductKeyHash {
  size_t operator()(const ProductKey& key) const {
    size_t hash = 0;
    const auto mix = [&](int64_t value) {
      hash = (hash ^ static_cast<size_t>(value)) * 0x9e3779b97f4a7c15u;
      hash ^= hash >> 29;
    };
    const auto mix_operand = [&](const ProductOperand& operand) {
      mix(operand.leading);
      mix(operand.batch_stride);
      mix(operand.alignment * 2 + operand.transposed);
    };
    mix(key.device);
    mix(static_cast<int64_t>(key.dtype) * 64 + static_cast<int64_t>(key.out_dtype) * 4 +
        key.deterministic);
    mix(static_cast<int64_t>(key.epilogue) * 512 + key.vector_alignment);
    mix(key.aux_leading * 512 + key.aux_alignment);
    for (const int64_t size : {key.m, key.n, key.k, key.batch}) mix(size);
    for (const ProductOperand& operand : {key.a, key.b, key.c}) mix_operand(operand);
    return hash;
  }
};

ProductPlan::Layout make_layout(DType dtype, int64_t rows, int64_t columns,
                                const ProductOperand& operand, int64_t batch) {
  cublasLtMatrixLayout_t raw = nullptr;
  WEFT_CUBLAS_CHECK(cublasLtMatrixLayoutCreate(&raw, library_type(dtype),
                                               static_cast<uint64_t>(rows),
                                               static_cast<uint64_t>(columns), operand.leading));
  ProductPlan::Layout layout(raw);
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
void set_product_attribute(const ProductPlan::Descriptor& product,
                           cublasLtMatmulDescAttributes_t name, Value value) {
  WEFT_CUBLAS_CHECK(cublasLtMatmulDescSetAttribute(product.get(), name, &value, sizeof(value)));
}

template <class Value>
void set_preference(const Preference& preference, cublasLtMatmulPreferenceAttributes_t name,
                    Value value) {
  WEFT_CUBLAS_CHECK(
      cublasLtMatmulPreferenceSetAttribute(preference.get(), name, &value, sizeof(value)));
}

/// Whether the key's product works on more than its matrices.
bool has_addresses(const ProductKey& key) {
  return key.vector_alignment > 0 || key.aux_alignment > 0;
}

/// What is computed, with the call's vector and aux.
ProductPlan::Descriptor make_product(const ProductKey& key, const ProductCall& call) {
  const bool is_double = key.dtype == DType::f64;
  cublasLtMatmulDesc_t raw = nullptr;
  WEFT_CUBLAS_CHECK(cublasLtMatmulDescCreate(&raw,
                                             is_double ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F,
                                             is_double ? CUDA_R_64F : CUDA_R_32F));
  ProductPlan::Descriptor product(raw);
  const auto turn = [](const ProductOperand& operand) {
    return static_cast<int32_t>(operand.transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
  };
  set_product_attribute(product, CUBLASLT_MATMUL_DESC_TRANSA, turn(key.b));
  set_product_attribute(product, CUBLASLT_MATMUL_DESC_TRANSB, turn(key.a));
  if (key.epilogue != CUBLASLT_EPILOGUE_DEFAULT)
    set_product_attribute(product, CUBLASLT_MATMUL_DESC_EPILOGUE,
                          static_cast<uint32_t>(key.epilogue));
  // Both are of c's type, as the library takes them where nothing else is said.
  if (key.vector_alignment > 0)
    set_product_attribute(product, CUBLASLT_MATMUL_DESC_BIAS_POINTER, call.vector);
  if (key.aux_alignment > 0) {
    set_product_attribute(product, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, call.aux);
    set_product_attribute(product, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, key.aux_leading);
  }
  return product;
}

ProductPlan make_plan(const ProductKey& key, const ProductCall& call, int most_algorithms) {
  ProductPlan plan;
  // The library takes the alignment of the vector and of aux from their addresses.
  plan.product = make_product(key, call);
  const auto layout = [&](DType dtype, int64_t rows, int64_t columns,
                          const ProductOperand& operand) {
    if (operand.transposed) std::swap(rows, columns);
    return make_layout(dtype, rows, columns, operand, key.batch);
  };
  plan.left = layout(key.dtype, key.n, key.k, key.b);
  plan.right = layout(key.dtype, key.k, key.m, key.a);
  plan.out = layout(key.out_dtype, key.n, key.m, key.c);

  cublasLtMatmulPreference_t raw_preference = nullptr;
  WEFT_CUBLAS_CHECK(cublasLtMatmulPreferenceCreate(&raw_preference));
  const Preference preference(raw_preference);
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

cublasStatus_t run_algorithm(const ProductKey& key, const ProductPlan& plan,
                             const cublasLtMatmulAlgo_t& algorithm, const ProductCall& call) {
  const float alpha32 = static_cast<float>(call.alpha);
  const float beta32 = static_cast<float>(call.beta);
  const bool is_double = key.dtype == DType::f64;
  // Plans are shared by threads, so a product that carries an address is made anew.
  const ProductPlan::Descriptor with_addresses =
      has_addresses(key) ? make_product(key, call) : ProductPlan::Descriptor();
  return cublasLtMatmul(call.handle, (with_addresses ? with_addresses : plan.product).get(),
                        is_double ? static_cast<const void*>(&call.alpha) : &alpha32, call.b,
                        plan.left.get(), call.a, plan.right.get(),
                        is_double ? static_cast<const void*>(&call.beta) : &beta32, call.c,
                        plan.out.get(), call.c, plan.out.get(), &algorithm, call.workspace.data,
                        call.workspace.bytes, native(call.stream));
}

/// Keeps the fastest of the plan's algorithms, by running each on a copy of the result's shape.
void tune(const ProductKey& key, ProductPlan& plan, ProductCall call) {
  const int64_t last_matrix = (key.batch - 1) * key.c.batch_stride;
  const int64_t elements = last_matrix + (key.m - 1) * key.c.leading + key.n;
  const Tensor scratch = zeros({elements}, key.out_dtype, call.stream.device());
  call.c = scratch.raw_data();
  size_t best = 0;
  for (size_t i = 0; i < plan.algorithms.size(); ++i) {
    const double ms = time_runs(call.stream, [&] {
      return run_algorithm(key, plan, plan.algorithms[i], call) == CUBLAS_STATUS_SUCCESS;
    });
    if (ms > 0 && (plan.milliseconds == 0 || ms < plan.milliseconds)) {
      best = i;
      plan.milliseconds = ms;
    }
  }
  plan.algorithms = {plan.algorithms[best]};
}

/// Whether timing the algorithms can pay and is possible now.
bool is_worth_tuning(const ProductKey& key, Stream stream) {
  constexpr double kLeastFlops = 2e9;
  const double flops = 2.0 * static_cast<double>(key.m) * static_cast<double>(key.n) *
                       static_cast<double>(key.k) * static_cast<double>(key.batch);
  return flops >= kLeastFlops && !key.deterministic && !is_capturing(stream);
}

std::shared_ptr<const ProductPlan> choose_plan(
    const ProductKey& key, const ProductCall& call,
    const std::function<double()>& milliseconds_of_parts) {
  const bool tuned = is_worth_tuning(key, call.stream);
  auto plan = std::make_shared<ProductPlan>(make_plan(key, call, tuned ? 8 : 1));
  if (!tuned || !plan->supported()) return plan;
  try {
    tune(key, *plan, call);
    if (plan->milliseconds > 0 && milliseconds_of_parts) {
      const double parts = milliseconds_of_parts();
      if (parts > 0 && plan->milliseconds > parts) plan->algorithms.clear();
    }
  } catch (const OutOfMemoryError&) {  // no room to try: the first choice that there is
  }
  return plan;
}

}  // namespace

int32_t alignment_of(const void* data, int64_t batch_stride, DType dtype) {
  const auto address = reinterpret_cast<uintptr_t>(data);
  const uintptr_t bits =
      address | (static_cast<uintptr_t>(batch_stride) * size_of(dtype)) | uintptr_t{256};
  return static_cast<int32_t>(uintptr_t{1} << std::countr_zero(bits));
}

ProductOperand product_operand(const Tensor& matrix, int64_t batch_stride) {
  ProductOperand operand;
  operand.transposed = !has_dense_rows(matrix);
  operand.leading = leading_size(operand.transposed ? matrix.transpose(-1, -2) : matrix);
  operand.batch_stride = batch_stride;
  operand.alignment = alignment_of(matrix.raw_data(), batch_stride, matrix.dtype());
  return operand;
}

std::shared_ptr<const ProductPlan> product_plan(
    const ProductKey& key, const ProductCall& call,
    const std::function<double()>& milliseconds_of_parts) {
  static LruCache<ProductKey, std::shared_ptr<const ProductPlan>, ProductKeyHash> plans(4096);
  return plans.get_or_make(key, [&] { return choose_plan(key, call, milliseconds_of_parts); });
}

void run_product(const ProductKey& key, const ProductPlan& plan, const ProductCall& call) {
  WEFT_CUBLAS_CHECK(run_algorithm(key, plan, plan.algorithms.front(), call));
}

double time_runs(Stream stream, const std::function<bool()>& run) {
  constexpr int kRuns = 3;
  if (!run()) return 0;
  Event begin(stream.device(), /*timed=*/true), end(stream.device(), /*timed=*/true);
  begin.record(stream);
  for (int repeat = 0; repeat < kRuns; ++repeat) run();
  end.record(stream);
  end.synchronize();
  return begin.milliseconds_to(end) / kRuns;
}

}  // namespace weft::cuda
