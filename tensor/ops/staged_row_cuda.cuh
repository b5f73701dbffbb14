#pragma once

// Rows too long for registers that are walked several times.
#include "ops/rows_cuda.cuh"

namespace weft::cuda {

/// A row of a half type, copied to shared memory while its threads do other things. It begins at 16
/// bytes; what pads its last 16 bytes is not read. Every thread reads what it has copied itself, so
/// that nobody waits for others.
template <class T, class Shape>
class StagedRow {
 public:
  using A = accumulator_t<T>;
  static constexpr int kWidth = Shape::kWidth;
  static_assert(sizeof(T) == 2 && kWidth == 8);

  /// Bytes of shared memory for a row.
  static __host__ __device__ int64_t bytes(int64_t length) { return ceil_div(length, kWidth) * 16; }

  __device__ StagedRow(const T* row, int64_t length, unsigned char* memory)
      : packs_(reinterpret_cast<Pack<T, kWidth>*>(memory)), length_(static_cast<int>(length)) {
    int i = first();
    for (; i + kWidth <= length_; i += kStep) {
      const auto to = static_cast<uint32_t>(__cvta_generic_to_shared(packs_ + i / kWidth));
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(row + i) : "memory");
    }
    if (i < length_) {  // the end of the row, which is no whole pack
      Pack<T, kWidth> rest = {};
#pragma unroll
      for (int k = 0; k < kWidth; ++k) {
        if (i + k < length_) rest.values[k] = row[i + k];
      }
      packs_[i / kWidth] = rest;
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
  }

  __device__ void wait() const {
    asm volatile("cp.async.wait_group 0;" ::: "memory");
  }

  /// Calls body(i, values) for the packs of this thread; beyond the row, values are -infinity.
  template <class Body>
  __device__ __forceinline__ void for_each(Body&& body) const {
    for (int i = first(); i < length_; i += kStep) {
      A values[1][kWidth];
      widen_pack(packs_[i / kWidth], values[0]);
      if (i + kWidth > length_) {
#pragma unroll
        for (int k = 0; k < kWidth; ++k) {
          if (i + k >= length_) values[0][k] = kMinusInfinity<A>;
        }
      }
      body(int64_t{i}, values);
    }
  }

 private:
  static constexpr int kStep = Shape::kThreads * kWidth;
  static __device__ __forceinline__ int first() {
    return Shape::thread() * kWidth;
  }

  Pack<T, kWidth>* packs_;
  int length_;
};

/// A row that is read again: StagedRow without the copy.
template <class T, class Shape>
class PlainRow : public RowReader<T, Shape, 1> {
 public:
  __device__ PlainRow(const T* row, int64_t length, unsigned char*)
      : RowReader<T, Shape, 1>({row}, length) {}
  __device__ void wait() const {}
  static __host__ __device__ int64_t bytes(int64_t) { return 0; }
};

/// Whether the shared memory of a block of the stream's device takes a row of a half type.
inline bool staged_row_fits(int64_t length, Stream stream) {
  constexpr size_t kStaticBytes = 1024;  // of the sums over threads, rounded up
  const auto limit = static_cast<int64_t>(
      device_context(stream.device()).properties().sharedMemPerBlockOptin - kStaticBytes);
  return length * 2 + 16 <= limit;
}

}  // namespace weft::cuda
