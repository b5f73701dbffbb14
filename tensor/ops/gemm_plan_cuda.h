#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include <cublasLt.h>

#include "weft/tensor/stream.h"
#include "weft/tensor/tensor.h"

#include "cuda/device_context.h"

// Products that cuBLASLt is ready to run, and the cache of them: what gemm_cuda.cpp and
// activation_product_cuda.cpp share.

namespace weft::cuda {

/// How an operand lies in memory, as the library sees it.
struct ProductOperand {
  int64_t leading = 0;       // distance of two of the library's columns
  int64_t batch_stride = 0;  // elements
  int32_t alignment = 0;     // bytes, at most 256
  bool transposed = false;   // the library has to turn it

  friend bool operator==(const ProductOperand&, const ProductOperand&) = default;
};

/// All that the choice of an algorithm for c = a b depends on.
struct ProductKey {
  int device = 0;
  DType dtype = DType::f32, out_dtype = DType::f32;
  int64_t m = 0, n = 0, k = 0, batch = 0;
  ProductOperand a, b, c;
  /// What is done to the product. The library's D is c, its A is b, its B is a.
  cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  int32_t vector_alignment = 0;  // of a bias or of sums: bytes, at most 256; 0: there is none
  int32_t aux_alignment = 0;   // of what an activation leaves for its derivative; 0: there is none
  int64_t aux_leading = 0;     // distance of its rows: elements, or bits of a mask
  bool deterministic = false;  // the choice must not depend on timings

  friend bool operator==(const ProductKey&, const ProductKey&) = default;
};

/// A product that the library is ready to run.
struct ProductPlan {
  struct Deleter {
    void operator()(cublasLtMatmulDescOpaque_t* it) const { cublasLtMatmulDescDestroy(it); }
    void operator()(cublasLtMatrixLayoutOpaque_t* it) const { cublasLtMatrixLayoutDestroy(it); }
  };
  using Descriptor = std::unique_ptr<cublasLtMatmulDescOpaque_t, Deleter>;
  using Layout = std::unique_ptr<cublasLtMatrixLayoutOpaque_t, Deleter>;

  Descriptor product;
  Layout left, right, out;
  std::vector<cublasLtMatmulAlgo_t> algorithms;  // the first is to be used; none: unsupported
  double milliseconds = 0;                       // of a run, where it was timed

  bool supported() const { return !algorithms.empty(); }
};

/// Where the operands of a product lie and what it runs with.
struct ProductCall {
  const void* a = nullptr;
  const void* b = nullptr;
  void* c = nullptr;
  void* vector = nullptr;
  void* aux = nullptr;
  double alpha = 1, beta = 0;
  cublasLtHandle_t handle;
  Workspace workspace;
  Stream stream;
};

/// The largest power of two up to 256 that divides the addresses of all matrices of a batch.
int32_t alignment_of(const void* data, int64_t batch_stride, DType dtype);

ProductOperand product_operand(const Tensor& matrix, int64_t batch_stride);

/// The plan for products of this kind, from a cache; made, and its algorithms timed where that can
/// pay, when first asked for. Unsupported where the library has no algorithm, and where
/// `milliseconds_of_parts`, asked only for a plan that was timed, shows that the same is had faster
/// without this epilogue (0: not known).
std::shared_ptr<const ProductPlan> product_plan(
    const ProductKey& key, const ProductCall& call,
    const std::function<double()>& milliseconds_of_parts = {});

/// Puts a supported product on the stream.
void run_product(const ProductKey& key, const ProductPlan& plan, const ProductCall& call);

/// Milliseconds of the work that run() puts on the stream, or 0 where run() gives false.
double time_runs(Stream stream, const std::function<bool()>& run);

}  // namespace weft::cuda
