#pragma once

// What the CPU launcher of matrix products is made of.
#include <cstdint>

#include "weft/tensor/dtype.h"
#include "weft/tensor/tensor.h"

namespace weft::cpu {

/// A matrix, or a batch of them: element (i, j) of matrix p lies p * batch_stride + i * row_stride
/// + j * column_stride elements after data.
struct MatrixView {
  char* data = nullptr;
  DType dtype = DType::f32;
  int64_t row_stride = 0;
  int64_t column_stride = 0;
  int64_t batch_stride = 0;  // 0: the same matrix throughout

  /// The view that starts at this element.
  MatrixView from(int64_t index, int64_t row, int64_t column) const {
    MatrixView part = *this;
    part.data += (index * batch_stride + row * row_stride + column * column_stride) *
                 static_cast<int64_t>(size_of(dtype));
    return part;
  }
  MatrixView transposed() const { return {data, dtype, column_stride, row_stride, batch_stride}; }
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data);
  }
};

/// c = alpha a b + beta c + bias for `batch` products of a [m, k] and b [k, n].
struct GemmCall {
  int64_t batch = 1, m = 0, n = 0, k = 0;
  MatrixView a, b, c;
  MatrixView bias =
      {};  // without data: none. One row or one column, with stride 0 along the other axis
  double alpha = 1, beta = 0;

  /// The same product as c^T = b^T a^T.
  GemmCall turned() const {
    GemmCall call = *this;
    call.m = n, call.n = m;
    call.a = b.transposed(), call.b = a.transposed();
    call.c = c.transposed(), call.bias = bias.transposed();
    return call;
  }
};

/// Whether a product has so few columns that gemm_loops reads `a` once for several of them, as it
/// lies, which sets the pace.
bool has_few_columns(const GemmCall& call);
/// Whether gemm_loops is the better choice for matrices of this size.
bool prefers_loops(const GemmCall& call);
/// Loops of our own for one matrix, in the calling thread: any layout and any size, k = 0 as well.
/// Quick where a library call would cost more than the arithmetic (tiny matrices) or where memory
/// sets the pace (a matrix times one column or a few).
void gemm_loops(const GemmCall& call);

// The libraries. They use all threads and take k >= 1, operands with one dense axis, c with dense
// rows, and a bias of one row.

/// CBLAS: f64 and f32 as they are, bf16 and f16 through blocks of f32.
void gemm_blas(const GemmCall& call);
/// oneDNN: f32 and bf16. Returns false, with nothing done, where it has no fast kernel.
bool gemm_onednn(const GemmCall& call);
/// oneDNN: one product of bf16 with an f32 weight [k, n] in the place of b, of which a bf16 copy in
/// the library's own layout is kept until the weight changes. False where there is no fast kernel.
bool gemm_onednn_weight(const GemmCall& call, const Tensor& weight);
/// Drops those copies.
void clear_packed_weights_onednn();

}  // namespace weft::cpu
