#include <algorithm>
#include <limits>
#include <mutex>

#include <cblas.h>

#include "weft/tensor/check.h"
#include "weft/tensor/dispatch.h"
#include "weft/tensor/parallel.h"
#include "weft/tensor/tensor.h"

#include "ops/gemm_cpu.h"

// Only OpenBLAS has it; null with another CBLAS.
extern "C" void openblas_set_num_threads(int threads) __attribute__((weak));

namespace weft::cpu {
namespace {

/// Products are spread over our own threads, so those of OpenBLAS would only compete with them.
void silence_library_threads() {
  static std::once_flag once;
  std::call_once(once, [] {
    if (openblas_set_num_threads != nullptr) openblas_set_num_threads(1);
  });
}

blasint as_blasint(int64_t value) {
  WEFT_CHECK(value <= std::numeric_limits<blasint>::max(), ShapeError,
             "matmul: a size or stride of {} is beyond what CBLAS takes", value);
  return static_cast<blasint>(value);
}

/// One matrix, in the calling thread.
template <class T>
void blas_gemm(const GemmCall& call) {
  const auto transpose = [](const MatrixView& view) {
    return view.column_stride == 1 ? CblasNoTrans : CblasTrans;
  };
  const auto leading = [](const MatrixView& view) {
    return as_blasint(view.column_stride == 1 ? view.row_stride : view.column_stride);
  };
  const auto run = [&](auto function) {
    function(CblasRowMajor, transpose(call.a), transpose(call.b), as_blasint(call.m),
             as_blasint(call.n), as_blasint(call.k), static_cast<T>(call.alpha),
             call.a.as<const T>(), leading(call.a), call.b.as<const T>(), leading(call.b),
             static_cast<T>(call.beta), call.c.as<T>(), leading(call.c));
  };
  if constexpr (std::is_same_v<T, double>) {
    run(cblas_dgemm);
  } else {
    run(cblas_sgemm);
  }
  if (call.bias.data == nullptr) return;
  const T* const bias = call.bias.as<const T>();
  for (int64_t row = 0; row < call.m; ++row) {
    T* const c = call.c.as<T>() + row * call.c.row_stride;
    for (int64_t column = 0; column < call.n; ++column) c[column] += bias[column];
  }
}

/// One product of f32 blocks in the calling thread.
void multiply_blocks(const GemmCall& call) {
#ifdef WEFT_HAVE_ONEDNN
  if (gemm_onednn(call)) return;
#endif
  blas_gemm<float>(call);
}

/// A block of `view` as dense f32 rows.
template <class T>
void convert_block(const MatrixView& view, int64_t rows, int64_t columns, float* to) {
  const T* const from = view.as<const T>();
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j)
      to[i * columns + j] = static_cast<float>(from[i * view.row_stride + j * view.column_stride]);
  }
}

MatrixView dense_view(float* data, int64_t columns) {
  return {reinterpret_cast<char*>(data), DType::f32, columns, 1, 0};
}

/// One matrix of half type in the calling thread, block by block.
template <class T>
void half_gemm(const GemmCall& call) {
  constexpr int64_t kBlock = 256;  // three blocks of f32 stay in the cache next to the core
  constexpr int64_t kDepth = 512;
  const int64_t m_block = std::min(kBlock, call.m), n_block = std::min(kBlock, call.n);
  const int64_t k_block = std::min(kDepth, call.k);
  const Tensor scratch = empty({m_block * k_block + k_block * n_block + m_block * n_block});
  float* const a = const_cast<Tensor&>(scratch).data<float>();
  float* const b = a + m_block * k_block;
  float* const c = b + k_block * n_block;
  for (int64_t j = 0; j < call.n; j += n_block) {
    const int64_t n = std::min(n_block, call.n - j);
    for (int64_t i = 0; i < call.m; i += m_block) {
      const int64_t m = std::min(m_block, call.m - i);
      for (int64_t p = 0; p < call.k; p += k_block) {
        const int64_t k = std::min(k_block, call.k - p);
        convert_block<T>(call.a.from(0, i, p), m, k, a);
        convert_block<T>(call.b.from(0, p, j), k, n, b);
        multiply_blocks({.m = m,
                         .n = n,
                         .k = k,
                         .a = dense_view(a, k),
                         .b = dense_view(b, n),
                         .c = dense_view(c, n),
                         .beta = p == 0 ? 0.0 : 1.0});
      }
      const auto store = [&]<class C>() {
        const float alpha = static_cast<float>(call.alpha), beta = static_cast<float>(call.beta);
        const float* const bias = call.bias.from(0, 0, j).template as<const float>();
        for (int64_t row = 0; row < m; ++row) {
          C* const to = call.c.from(0, i + row, j).template as<C>();
          for (int64_t column = 0; column < n; ++column) {
            float value = alpha * c[row * n + column];
            if (beta != 0) value += beta * static_cast<float>(to[column]);
            if (call.bias.data != nullptr) value += bias[column];
            to[column] = static_cast<C>(value);
          }
        }
      };
      if (call.c.dtype == DType::f32) {
        store.template operator()<float>();
      } else {
        store.template operator()<T>();
      }
    }
  }
}

void run_one(const GemmCall& call) {
  dispatch_floating(call.a.dtype, "matmul", [&]<class T>() {
    if constexpr (std::is_same_v<T, accumulator_t<T>>) {
      blas_gemm<T>(call);
    } else {
      half_gemm<T>(call);
    }
  });
}

}  // namespace

void gemm_blas(const GemmCall& call) {
  silence_library_threads();
  // A piece is a range of rows (or columns, of a wide product) of one matrix.
  const bool split_rows = call.m >= call.n;
  const int64_t length = split_rows ? call.m : call.n;
  constexpr int64_t kAlign = 16;  // of borders, so that pieces hold whole tiles of the library
  const int64_t pieces = call.batch >= num_threads()
                             ? 1
                             : std::min<int64_t>((num_threads() + call.batch - 1) / call.batch,
                                                 (length + kAlign - 1) / kAlign);
  const auto border = [&](int64_t piece) {
    return std::min(length, (length * piece / pieces + kAlign - 1) / kAlign * kAlign);
  };
  parallel_for(0, call.batch * pieces, 1, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t index = item / pieces, piece = item % pieces;
      const int64_t from = border(piece), to = piece + 1 == pieces ? length : border(piece + 1);
      if (from >= to) continue;
      GemmCall part = call;
      part.batch = 1;
      part.a = call.a.from(index, split_rows ? from : 0, 0);
      part.b = call.b.from(index, 0, split_rows ? 0 : from);
      part.c = call.c.from(index, split_rows ? from : 0, split_rows ? 0 : from);
      part.bias = call.bias.from(0, 0, split_rows ? 0 : from);
      (split_rows ? part.m : part.n) = to - from;
      run_one(part);
    }
  });
}

}  // namespace weft::cpu
