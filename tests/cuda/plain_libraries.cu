// Stands in for cuBLASLt and cuDNN in a program that loads it first. Products are made by the
// simplest kernel there is, in double; cuDNN refuses everything, so that Weft's kernels do the
// work. scripts/sanitize-gpu.sh looks at Weft's kernels so: compute-sanitizer does not see what the
// libraries' kernels write through the tensor memory accelerator, and its racecheck does not
// survive them.
#include <cstdint>
#include <cstdio>
#include <type_traits>

#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>
#ifdef WEFT_PLAIN_CUDNN
#include <cudnn.h>
#endif

// No part of the project's own namespace, by whose name kernels are chosen to be looked at.
namespace plain_libraries {
namespace {

/// A matrix whose columns are dense, or the transpose of one.
template <class T>
struct Operand {
  T* data;
  int64_t leading, batch_stride;
  bool transposed;

  __device__ T& at(int64_t row, int64_t column, int64_t batch) const {
    return data[batch * batch_stride +
                (transposed ? column + row * leading : row + column * leading)];
  }
};

/// An activation or its derivative, without the sums that come with one.
enum class Activation { none, relu, gelu, relu_derivative, gelu_derivative };

template <class In, class Out>
struct Product {
  Operand<const In> a, b;  // [rows, depth], [depth, columns]
  Operand<Out> c;          // [rows, columns]
  const Out* bias;         // [rows] or null
  Out* sums;               // [columns], of b's columns, or null
  Activation activation;
  void* aux;            // elements before gelu, or a bit for each that relu leaves; may be null
  int64_t aux_leading;  // elements, bits
  int64_t rows, columns, depth;
  double alpha, beta;
};

__device__ double gelu(double x, double& slope) {
  const double scale = 0.7978845608028654;  // sqrt(2 / pi)
  const double t = tanh(scale * (x + 0.044715 * x * x * x));
  slope = 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * scale * (1 + 3 * 0.044715 * x * x);
  return 0.5 * x * (1 + t);
}

/// What becomes of an element before it is stored.
template <class In, class Out>
__device__ double activate(const Product<In, Out>& product, int64_t row, int64_t column,
                           double value) {
  const int64_t at = row + column * product.aux_leading;
  double slope = 0;
  switch (product.activation) {
    case Activation::none:
      return value;
    case Activation::relu:
      return value > 0 ? value : 0;
    case Activation::gelu:
      if (product.aux != nullptr) static_cast<Out*>(product.aux)[at] = static_cast<Out>(value);
      return gelu(value, slope);
    case Activation::relu_derivative:
      return static_cast<const unsigned*>(product.aux)[at / 32] >> (at % 32) & 1 ? value : 0;
    case Activation::gelu_derivative:
      gelu(static_cast<double>(static_cast<const Out*>(product.aux)[at]), slope);
      return value * slope;
  }
  return value;
}

template <class In, class Out>
__global__ void multiply(const Product<In, Out> product) {
  const int64_t row = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const int64_t column = int64_t{blockIdx.y} * blockDim.y + threadIdx.y;
  const int64_t batch = blockIdx.z;
  if (row >= product.rows || column >= product.columns) return;
  double sum = 0, column_sum = 0;
  for (int64_t k = 0; k < product.depth; ++k) {
    const auto b = static_cast<double>(product.b.at(k, column, batch));
    sum += static_cast<double>(product.a.at(row, k, batch)) * b;
    column_sum += b;
  }
  if (product.sums != nullptr && row == 0) product.sums[column] = static_cast<Out>(column_sum);
  sum *= product.alpha;
  Out& to = product.c.at(row, column, batch);
  if (product.beta != 0) sum += product.beta * static_cast<double>(to);
  if (product.bias != nullptr) sum += static_cast<double>(product.bias[row]);
  to = static_cast<Out>(activate(product, row, column, sum));
}

/// A bit for each element of c that is above zero, a thread a word.
template <class Out>
__global__ void make_mask(const Operand<Out> c, int64_t rows, unsigned* mask, int64_t words) {
  const int64_t word = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const int64_t column = blockIdx.y;
  if (word >= words) return;
  unsigned bits = 0;
  for (int64_t row = 32 * word; row < rows && row < 32 * (word + 1); ++row)
    bits |= unsigned{static_cast<double>(c.at(row, column, 0)) > 0} << (row % 32);
  mask[word + column * words] = bits;
}

/// Sums of the rows of c, a thread a row.
template <class Out>
__global__ void sum_rows(const Operand<Out> c, int64_t rows, int64_t columns, Out* sums) {
  const int64_t row = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (row >= rows) return;
  double sum = 0;
  for (int64_t column = 0; column < columns; ++column)
    sum += static_cast<double>(c.at(row, column, 0));
  sums[row] = static_cast<Out>(sum);
}

Activation activation_of(uint32_t epilogue) {
  switch (epilogue) {
    case CUBLASLT_EPILOGUE_RELU:
    case CUBLASLT_EPILOGUE_RELU_BIAS:
    case CUBLASLT_EPILOGUE_RELU_AUX:
    case CUBLASLT_EPILOGUE_RELU_AUX_BIAS:
      return Activation::relu;
    case CUBLASLT_EPILOGUE_GELU:
    case CUBLASLT_EPILOGUE_GELU_BIAS:
    case CUBLASLT_EPILOGUE_GELU_AUX:
    case CUBLASLT_EPILOGUE_GELU_AUX_BIAS:
      return Activation::gelu;
    case CUBLASLT_EPILOGUE_DRELU:
    case CUBLASLT_EPILOGUE_DRELU_BGRAD:
      return Activation::relu_derivative;
    case CUBLASLT_EPILOGUE_DGELU:
    case CUBLASLT_EPILOGUE_DGELU_BGRAD:
      return Activation::gelu_derivative;
    default:
      return Activation::none;
  }
}

bool takes_bias(uint32_t epilogue) {
  return epilogue == CUBLASLT_EPILOGUE_BIAS || epilogue == CUBLASLT_EPILOGUE_RELU_BIAS ||
         epilogue == CUBLASLT_EPILOGUE_RELU_AUX_BIAS || epilogue == CUBLASLT_EPILOGUE_GELU_BIAS ||
         epilogue == CUBLASLT_EPILOGUE_GELU_AUX_BIAS;
}

unsigned blocks(int64_t elements, unsigned threads) {
  return static_cast<unsigned>((elements + threads - 1) / threads);
}

template <class Value>
Value attribute(cublasLtMatrixLayout_t layout, cublasLtMatrixLayoutAttribute_t name) {
  Value value{};
  size_t written = 0;
  cublasLtMatrixLayoutGetAttribute(layout, name, &value, sizeof(value), &written);
  return value;
}

template <class Value>
Value attribute(cublasLtMatmulDesc_t product, cublasLtMatmulDescAttributes_t name) {
  Value value{};
  size_t written = 0;
  cublasLtMatmulDescGetAttribute(product, name, &value, sizeof(value), &written);
  return value;
}

template <class T>
Operand<T> operand(T* data, cublasLtMatrixLayout_t layout, int32_t operation) {
  return {data, attribute<int64_t>(layout, CUBLASLT_MATRIX_LAYOUT_LD),
          attribute<int64_t>(layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET),
          operation != CUBLAS_OP_N};
}

/// What cublasLtMatmul() is given, as far as Weft uses it: operands of one type, results in place.
struct Call {
  cublasLtMatmulDesc_t product;
  const void* alpha;
  const void* a;
  cublasLtMatrixLayout_t a_layout;
  const void* b;
  cublasLtMatrixLayout_t b_layout;
  const void* beta;
  void* c;
  cublasLtMatrixLayout_t c_layout;
  cudaStream_t stream;
};

template <class In, class Out>
cublasStatus_t run(const Call& call) {
  const auto turned = [&](cublasLtMatmulDescAttributes_t name) {
    return attribute<int32_t>(call.product, name);
  };
  const auto epilogue = attribute<uint32_t>(call.product, CUBLASLT_MATMUL_DESC_EPILOGUE);
  void* const vector = attribute<void*>(call.product, CUBLASLT_MATMUL_DESC_BIAS_POINTER);
  const bool adds_bias = takes_bias(epilogue);
  const bool makes_sums = epilogue == CUBLASLT_EPILOGUE_BGRADB;
  const bool sums_result =
      epilogue == CUBLASLT_EPILOGUE_DRELU_BGRAD || epilogue == CUBLASLT_EPILOGUE_DGELU_BGRAD;
  const Activation activation = activation_of(epilogue);
  if (!adds_bias && !makes_sums && activation == Activation::none &&
      epilogue != CUBLASLT_EPILOGUE_DEFAULT)
    return CUBLAS_STATUS_NOT_SUPPORTED;

  Product<In, Out> product;
  product.a =
      operand(static_cast<const In*>(call.a), call.a_layout, turned(CUBLASLT_MATMUL_DESC_TRANSA));
  product.b =
      operand(static_cast<const In*>(call.b), call.b_layout, turned(CUBLASLT_MATMUL_DESC_TRANSB));
  product.c = operand(static_cast<Out*>(call.c), call.c_layout, CUBLAS_OP_N);
  product.bias = adds_bias ? static_cast<const Out*>(vector) : nullptr;
  product.sums = makes_sums ? static_cast<Out*>(vector) : nullptr;
  product.activation = activation;
  product.aux = attribute<void*>(call.product, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER);
  product.aux_leading = attribute<int64_t>(call.product, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD);
  product.rows = attribute<int64_t>(call.c_layout, CUBLASLT_MATRIX_LAYOUT_ROWS);
  product.columns = attribute<int64_t>(call.c_layout, CUBLASLT_MATRIX_LAYOUT_COLS);
  product.depth =
      attribute<int64_t>(call.a_layout, product.a.transposed ? CUBLASLT_MATRIX_LAYOUT_ROWS
                                                             : CUBLASLT_MATRIX_LAYOUT_COLS);
  using Scale = std::conditional_t<std::is_same_v<In, double>, double, float>;
  product.alpha = *static_cast<const Scale*>(call.alpha);
  product.beta = *static_cast<const Scale*>(call.beta);
  const auto batch = attribute<int32_t>(call.c_layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT);

  const dim3 threads(32, 8);
  const dim3 grid(blocks(product.rows, threads.x), blocks(product.columns, threads.y),
                  static_cast<unsigned>(batch));
  multiply<In, Out><<<grid, threads, 0, call.stream>>>(product);
  if (activation == Activation::relu && product.aux != nullptr) {
    const int64_t words = product.aux_leading / 32;
    make_mask<Out>
        <<<dim3(blocks(words, 128), static_cast<unsigned>(product.columns)), 128, 0, call.stream>>>(
            product.c, product.rows, static_cast<unsigned*>(product.aux), words);
  }
  if (sums_result) {
    sum_rows<Out><<<blocks(product.rows, 128), 128, 0, call.stream>>>(
        product.c, product.rows, product.columns, static_cast<Out*>(vector));
  }
  return cudaGetLastError() == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}

// Who looks at the output sees that the libraries are not in it.
[[maybe_unused]] const int told =
    std::fputs("plain_libraries: in place of cuBLASLt and cuDNN\n", stderr);

}  // namespace
}  // namespace plain_libraries

extern "C" cublasStatus_t cublasLtMatmul(
    cublasLtHandle_t /*handle*/, cublasLtMatmulDesc_t product, const void* alpha, const void* a,
    cublasLtMatrixLayout_t a_layout, const void* b, cublasLtMatrixLayout_t b_layout,
    const void* beta, const void* c, cublasLtMatrixLayout_t /*c_layout*/, void* d,
    cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t* /*algorithm*/, void* /*workspace*/,
    size_t /*workspace_bytes*/, cudaStream_t stream) {
  using namespace plain_libraries;
  if (c != d) return CUBLAS_STATUS_NOT_SUPPORTED;
  const Call call{product, alpha, a, a_layout, b, b_layout, beta, d, d_layout, stream};
  const auto in = attribute<uint32_t>(a_layout, CUBLASLT_MATRIX_LAYOUT_TYPE);
  const auto out = attribute<uint32_t>(d_layout, CUBLASLT_MATRIX_LAYOUT_TYPE);
  const auto is = [&](cudaDataType_t in_type, cudaDataType_t out_type) {
    return in == static_cast<uint32_t>(in_type) && out == static_cast<uint32_t>(out_type);
  };
  if (is(CUDA_R_64F, CUDA_R_64F)) return run<double, double>(call);
  if (is(CUDA_R_32F, CUDA_R_32F)) return run<float, float>(call);
  if (is(CUDA_R_16BF, CUDA_R_16BF)) return run<__nv_bfloat16, __nv_bfloat16>(call);
  if (is(CUDA_R_16BF, CUDA_R_32F)) return run<__nv_bfloat16, float>(call);
  if (is(CUDA_R_16F, CUDA_R_16F)) return run<__half, __half>(call);
  if (is(CUDA_R_16F, CUDA_R_32F)) return run<__half, float>(call);
  return CUBLAS_STATUS_NOT_SUPPORTED;
}

#ifdef WEFT_PLAIN_CUDNN
extern "C" cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t /*type*/,
                                                      cudnnBackendDescriptor_t* /*descriptor*/) {
  return CUDNN_STATUS_NOT_SUPPORTED;
}
#endif
