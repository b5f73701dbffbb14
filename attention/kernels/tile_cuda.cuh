#pragma once

// Matrix products of tiles that lie in shared memory, and how tiles get there. The half types use
// tensor cores (mma.sync), float and double fused multiply-adds; both keep results in the same
// places, so that kernels are written once:
//   thread `lane` of a warp holds, of every 16 x 8 piece of the warp's result, the rows
//   lane / 4 + {0, 8} and the columns 2 (lane % 4) + {0, 1}.
#include "kernels/attention_cuda.h"
#include "kernels/cuda_types.cuh"

namespace weft::attention::gpu {

/// Elements that every row of a tile is longer than its width, so that what a warp reads at a time
/// lies in different banks.
template <class T>
inline constexpr int kRowPad = 16 / static_cast<int>(sizeof(T));

/// How an operand lies in shared memory: along the axis that is summed over, or across it.
enum class Lies { along, across };

/// One warp's part of a result: kTilesM x kTilesN pieces of 16 x 8.
template <class T, int kTilesM, int kTilesN>
struct Fragment {
  sum_t<T> v[kTilesM][kTilesN][4];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < kTilesM; ++i) {
#pragma unroll
      for (int j = 0; j < kTilesN; ++j) {
#pragma unroll
        for (int e = 0; e < 4; ++e) v[i][j][e] = 0;
      }
    }
  }
};

__device__ __forceinline__ int lane_index() {
  return static_cast<int>(threadIdx.x) % 32;
}
/// Row of a fragment's element (i, ., 2 half + .), and column of (., j, . + e).
__device__ __forceinline__ int fragment_row(int i, int half) {
  return i * 16 + half * 8 + lane_index() / 4;
}
__device__ __forceinline__ int fragment_column(int j, int e) {
  return j * 8 + lane_index() % 4 * 2 + e;
}

namespace detail {

__device__ __forceinline__ unsigned shared_address(const void* pointer) {
  return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}

template <bool kTranspose>
__device__ __forceinline__ void load_matrices(unsigned (&r)[4], const void* row) {
  if constexpr (kTranspose) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
  }
}

template <bool kTranspose>
__device__ __forceinline__ void load_matrices(unsigned (&r)[2], const void* row) {
  if constexpr (kTranspose) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(row))
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(row))
                 : "memory");
  }
}

template <class T>
__device__ __forceinline__ void tensor_core(float (&c)[4], const unsigned (&a)[4], unsigned b0,
                                            unsigned b1) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
}

__device__ __forceinline__ void load_four(float (&to)[4], const float* from) {
  const float4 x = *reinterpret_cast<const float4*>(from);
  to[0] = x.x, to[1] = x.y, to[2] = x.z, to[3] = x.w;
}
__device__ __forceinline__ void load_four(double (&to)[4], const double* from) {
  const double2 x = reinterpret_cast<const double2*>(from)[0];
  const double2 y = reinterpret_cast<const double2*>(from)[1];
  to[0] = x.x, to[1] = x.y, to[2] = y.x, to[3] = y.y;
}

}  // namespace detail

/// C += A B over `depth` (whole steps of 16). a is the first row of this warp's part of A, rows or
/// steps `lda` apart: element (m, k) at a[m lda + k] where A lies along, at a[k lda + m] where
/// across. b likewise: (k, n) at b[n ldb + k] or at b[k ldb + n]. Columns from `columns` (in whole
/// 16) on are neither read nor computed. The warp runs it together.
template <class T, Lies kA, Lies kB, int kTilesM, int kTilesN>
__device__ __forceinline__ void multiply(Fragment<T, kTilesM, kTilesN>& c, const T* a, int lda,
                                         const T* b, int ldb, int depth,
                                         int columns = 8 * kTilesN) {
  const int lane = lane_index();
  if constexpr (is_half<T>) {
    const T* a_lane = kA == Lies::along
                          ? a + (lane & 15) * lda + (lane >> 4) * 8
                          : a + ((lane & 7) + (lane >> 4) * 8) * lda + ((lane >> 3) & 1) * 8;
    const T* b_lane = kB == Lies::along
                          ? b + ((lane & 7) + (lane >> 4) * 8) * ldb + ((lane >> 3) & 1) * 8
                          : b + (lane & 15) * ldb + (lane >> 4) * 8;
    // Of a last piece without a neighbour.
    const T* b_last =
        kB == Lies::along ? b + (lane & 7) * ldb + ((lane >> 3) & 1) * 8 : b + (lane & 15) * ldb;
#pragma unroll 2
    for (int k = 0; k < depth; k += 16) {
      unsigned rows[kTilesM][4];
#pragma unroll
      for (int i = 0; i < kTilesM; ++i) {
        detail::load_matrices<kA == Lies::across>(
            rows[i], kA == Lies::along ? a_lane + i * 16 * lda + k : a_lane + k * lda + i * 16);
      }
#pragma unroll
      for (int j = 0; j + 1 < kTilesN; j += 2) {
        if (j * 8 >= columns) break;
        unsigned two[4];
        detail::load_matrices<kB == Lies::across>(
            two, kB == Lies::along ? b_lane + j * 8 * ldb + k : b_lane + k * ldb + j * 8);
#pragma unroll
        for (int i = 0; i < kTilesM; ++i) {
          detail::tensor_core<T>(c.v[i][j], rows[i], two[0], two[1]);
          detail::tensor_core<T>(c.v[i][j + 1], rows[i], two[2], two[3]);
        }
      }
      if constexpr (kTilesN % 2 == 1) {
        constexpr int j = kTilesN - 1;
        if (j * 8 < columns) {
          unsigned one[2];
          detail::load_matrices<kB == Lies::across>(
              one, kB == Lies::along ? b_last + j * 8 * ldb + k : b_last + k * ldb + j * 8);
#pragma unroll
          for (int i = 0; i < kTilesM; ++i)
            detail::tensor_core<T>(c.v[i][j], rows[i], one[0], one[1]);
        }
      }
    }
  } else {
    const int row = lane / 4, column = lane % 4 * 2;
    for (int k = 0; k < depth; k += 4) {
      T rows[kTilesM][2][4];
#pragma unroll
      for (int i = 0; i < kTilesM; ++i) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int m = i * 16 + half * 8 + row;
          if constexpr (kA == Lies::along) {
            detail::load_four(rows[i][half], a + m * lda + k);
          } else {
#pragma unroll
            for (int step = 0; step < 4; ++step) rows[i][half][step] = a[(k + step) * lda + m];
          }
        }
      }
#pragma unroll
      for (int j = 0; j < kTilesN; ++j) {
        if (j * 8 >= columns) break;
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int n = j * 8 + column + e;
          T steps[4];
          if constexpr (kB == Lies::along) {
            detail::load_four(steps, b + n * ldb + k);
          } else {
#pragma unroll
            for (int step = 0; step < 4; ++step) steps[step] = b[(k + step) * ldb + n];
          }
#pragma unroll
          for (int i = 0; i < kTilesM; ++i) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
#pragma unroll
              for (int step = 0; step < 4; ++step)
                c.v[i][j][2 * half + e] += rows[i][half][step] * steps[step];
            }
          }
        }
      }
    }
  }
}

/// Copies columns [0, dim) of kRows rows to shared memory; what lies beyond, up to `width`, and
/// rows that are null become 0. The copies are complete after wait_for_copies() and a barrier.
/// `source` is any address in the tensor.
template <class T, int kRows, int kThreads, class RowOf>
__device__ __forceinline__ void copy_rows(T* to, int stride, int width, int dim, bool vectors,
                                          const void* source, const RowOf& row_of) {
  constexpr int kVector = 16 / static_cast<int>(sizeof(T));
  const int pieces = width / kVector;
  for (int i = static_cast<int>(threadIdx.x); i < kRows * pieces; i += kThreads) {
    const int r = i / pieces, column = (i - r * pieces) * kVector;
    const T* const row = row_of(r);
    T* const target = to + r * stride + column;
    if (vectors) {
      const bool there = row != nullptr && column < dim;
      asm volatile(
          "cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(detail::shared_address(target)),
          "l"(there ? static_cast<const void*>(row + column) : source), "r"(there ? 16 : 0)
          : "memory");
    } else {
#pragma unroll
      for (int e = 0; e < kVector; ++e)
        target[e] = row != nullptr && column + e < dim ? row[column + e] : narrow<T>(0);
    }
  }
}

__device__ __forceinline__ void end_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
/// Waits for all groups of copies but the last kLater.
template <int kLater>
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kLater) : "memory");
}

}  // namespace weft::attention::gpu
