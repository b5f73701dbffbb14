#include "ops/add_rows_cuda.h"
#include "ops/embedding_kernels.h"
#include "ops/rows_cuda.cuh"

namespace weft {
namespace {

using namespace cuda;

constexpr int kThreads = 256;
constexpr int kAhead = 4;

/// The id of a warp's row, or -1, reported, where it is outside the table.
template <class Index>
__device__ int64_t checked_id(const Index* __restrict__ ids, int64_t row, int64_t vocabulary,
                              Fault* fault, const char* op) {
  const int64_t id = ids[row];
  if (static_cast<uint64_t>(id) < static_cast<uint64_t>(vocabulary)) return id;
  if (threadIdx.x % 32 == 0) report_fault(fault, FaultKind::index, op, id, vocabulary);
  return -1;
}

/// The row that this thread's warp copies.
__device__ int64_t row_of_warp() {
  return static_cast<int64_t>(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32;
}

/// A warp copies a row in units that all rows are aligned to; ids outside the table give zeros.
template <class Unit, class Index>
__global__ void __launch_bounds__(kThreads)
    copy_rows(const Unit* __restrict__ table, int64_t stride, int64_t vocabulary,
              const Index* __restrict__ ids, int64_t count, Unit* __restrict__ out, int64_t length,
              Fault* fault, const char* op) {
  const int64_t row = row_of_warp();
  if (row >= count) return;
  const int64_t id = checked_id(ids, row, vocabulary, fault, op);
  const bool valid = id >= 0;
  const Unit* const from = table + (valid ? id : 0) * stride;
  Unit* const to = out + row * length;
  for (int64_t i = threadIdx.x % 32; i < length; i += 32 * kAhead) {
    Unit units[kAhead] = {};
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      if (valid && i + 32 * k < length) units[k] = from[i + 32 * k];
    }
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      if (i + 32 * k < length) to[i + 32 * k] = units[k];
    }
  }
}

/// A warp rounds a row of f32 to T, kWidth elements a thread at a time; ids outside give zeros.
template <class T, int kWidth, class Index>
__global__ void __launch_bounds__(kThreads)
    round_rows(const float* __restrict__ table, int64_t stride, int64_t vocabulary,
               const Index* __restrict__ ids, int64_t count, T* __restrict__ out, int64_t length,
               Fault* fault, const char* op) {
  const int64_t row = row_of_warp();
  if (row >= count) return;
  const int64_t id = checked_id(ids, row, vocabulary, fault, op);
  const bool valid = id >= 0;
  const float* const from = table + (valid ? id : 0) * stride;
  T* const to = out + row * length;
#pragma unroll 2
  for (int64_t i = threadIdx.x % 32 * kWidth; i < length; i += 32 * kWidth) {
    float values[kWidth] = {};
    if (valid) load_values<kWidth>(from + i, values);
    store_values(to + i, values);
  }
}

template <class T, class Index>
void launch_round_rows(const Tensor& table, const Tensor& ids, Tensor& out, Stream stream) {
  const bool aligned =
      rows_are_aligned(table) && is_aligned(out.raw_data(), table.size(1) * int64_t{sizeof(T)});
  launch("embedding", stream, {blocks_for(ids.numel(), kThreads / 32), kThreads},
         aligned ? round_rows<T, kPackWidth<T>, Index> : round_rows<T, 1, Index>,
         table.data<float>(), table.strides()[0], table.size(0), ids.data<Index>(), ids.numel(),
         out.data<T>(), table.size(1), fault_slot(stream.device()), "embedding");
}

}  // namespace

void embedding_cuda(const Tensor& table, const Tensor& ids, Tensor& out, Stream stream) {
  if (out.dtype() != table.dtype()) {
    return dispatch_index(ids.dtype(), "embedding", [&]<class Index>() {
      out.dtype() == DType::bf16 ? launch_round_rows<bf16, Index>(table, ids, out, stream)
                                 : launch_round_rows<f16, Index>(table, ids, out, stream);
    });
  }
  const auto element = static_cast<int64_t>(size_of(table.dtype()));
  const int64_t row_bytes = table.size(1) * element;
  const int64_t stride_bytes = table.strides()[0] * element;
  const auto addresses = reinterpret_cast<uintptr_t>(table.raw_data()) |
                         reinterpret_cast<uintptr_t>(out.raw_data()) |
                         static_cast<uintptr_t>(row_bytes) | static_cast<uintptr_t>(stride_bytes);
  dispatch_index(ids.dtype(), "embedding", [&]<class Index>() {
    const auto run = [&]<class Unit>() {
      constexpr auto kBytes = static_cast<int64_t>(sizeof(Unit));
      launch("embedding", stream, {blocks_for(ids.numel(), kThreads / 32), kThreads},
             copy_rows<Unit, Index>, static_cast<const Unit*>(table.raw_data()),
             stride_bytes / kBytes, table.size(0), ids.data<Index>(), ids.numel(),
             static_cast<Unit*>(out.raw_data()), row_bytes / kBytes, fault_slot(stream.device()),
             "embedding");
    };
    if (addresses % 16 == 0) {
      run.template operator()<uint4>();
    } else if (addresses % 4 == 0) {
      run.template operator()<uint32_t>();
    } else if (addresses % 2 == 0) {
      run.template operator()<uint16_t>();
    } else {
      run.template operator()<uint8_t>();
    }
  });
}

void embedding_backward_cuda(const Tensor& dy, const Tensor& ids, Tensor& dtable, Stream stream) {
  // dtable is zero so far.
  add_rows_cuda("embedding_backward", dy, ids, dtable, /*overwrite=*/true, stream);
}

}  // namespace weft
