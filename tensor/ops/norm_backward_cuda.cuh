#pragma once

// The backward pass of rms_norm and layer_norm. Gradients of gain and bias are added up without
// atomics: every block walks rows of its own with the sums of its columns in registers, and the
// blocks' sums are added in their order. How many blocks there are depends on the kind of device.
#include <algorithm>

#include "cuda/async_copy.cuh"
#include "cuda/bulk_copy.cuh"
#include "cuda/pairs.cuh"
#include "cuda/probe.h"
#include "cuda/shared_memory.cuh"
#include "ops/rows_cuda.cuh"

namespace weft::cuda {

template <class T>
struct NormBackward {
  using A = accumulator_t<T>;
  const T* dy;
  int64_t dy_stride;
  const T* x;
  int64_t x_stride;
  const T* added;  // to dx; may be null
  int64_t added_stride;
  T* dx;
  const A* gain;
  const A* mean;  // where centred
  const A* scale;
  A* partials;  // [blocks, sums of columns]: of gain, then of bias where centred
  int64_t rows, length;
  int64_t rows_of_all = 0;    // rows that every block takes
  int64_t with_one_more = 0;  // the first blocks, so that none has much more to do than others

  /// The first row of a block that takes sums of columns, and the end of the block before.
  __device__ __forceinline__ int64_t first_row(int64_t block) const {
    return block * rows_of_all + (block < with_one_more ? block : with_one_more);
  }
};

/// What a row was normalised with.
template <class A>
struct NormStatistics {
  A mean = 0;  // where centred
  A scale = 0;

  template <bool kCentred, class T>
  static __device__ __forceinline__ NormStatistics of(const NormBackward<T>& p, int64_t row) {
    return {kCentred ? p.mean[row] : A(0), p.scale[row]};
  }
};

/// dx of one row: with h = (x - mean) * scale and u = dy * gain, scale * (u - h * mean(u * h)),
/// less the mean of u where centred. `reader` walks dy and x; added(i) is what is added to dx.
/// Calls column(k, d, h) for every element.
template <class T, bool kCentred, class Shape, class Reader, class Added, class Column>
__device__ __forceinline__ void norm_backward_row(const NormBackward<T>& p, int64_t row,
                                                  NormStatistics<accumulator_t<T>> statistics,
                                                  const Reader& reader, Added&& added,
                                                  Column&& column) {
  using A = accumulator_t<T>;
  constexpr int kWidth = Shape::kWidth;
  const auto count = static_cast<A>(p.length);
  const A mean = statistics.mean;
  const A scale = statistics.scale;
  struct Sums {
    A offset, slope;
  } sums{0, 0};
  reader.for_each([&](int64_t i, const A(&values)[2][kWidth]) {
    A gain[kWidth];
    load_values<kWidth>(p.gain + i, gain);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      const A u = values[0][k] * gain[k];
      sums.offset += u;
      sums.slope += u * (values[1][k] - mean);
    }
  });
  if constexpr (kCentred) {
    sums = combine_over<Shape::kThreads>(sums, [](const Sums& a, const Sums& b) {
      return Sums{a.offset + b.offset, a.slope + b.slope};
    });
  } else {
    sums.slope = sum_over<Shape::kThreads>(sums.slope);
  }
  const A offset = kCentred ? sums.offset / count : A(0);
  const A slope = sums.slope * scale * scale / count;
  T* const dx = p.dx + row * p.length;
  reader.for_each([&](int64_t i, const A(&values)[2][kWidth]) {
    A gain[kWidth];
    load_values<kWidth>(p.gain + i, gain);
    A results[kWidth];
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      const A centred = values[1][k] - mean;
      results[k] = (values[0][k] * gain[k] - offset - centred * slope) * scale;
    }
    if (p.added != nullptr) {
      const Pack<T, kWidth> others = added(i);
#pragma unroll
      for (int k = 0; k < kWidth; ++k) results[k] += widen(others.values[k]);
    }
    store_values(dx + i, results);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      column(k, values[0][k], (values[1][k] - mean) * scale);
    }
  });
}

/// dx alone, for rows of any length.
template <class T, bool kCentred, class Shape>
__global__ void __launch_bounds__(Shape::kBlockThreads)
    norm_backward_rows(const NormBackward<T> p) {
  const int64_t row = Shape::row();
  if (row >= p.rows) return;
  using A = accumulator_t<T>;
  const RowReader<T, Shape, 2> reader({p.dy + row * p.dy_stride, p.x + row * p.x_stride}, p.length);
  norm_backward_row<T, kCentred, Shape>(
      p, row, NormStatistics<A>::template of<kCentred>(p, row), reader,
      [&](int64_t i) { return load_pack<Shape::kWidth>(p.added + row * p.added_stride + i); },
      [](int, A, A) {});
}

/// Two rows of dy, x and what is added to dx in shared memory, of a pack for each lane of a warp:
/// one that is walked while the next is on its way. Every thread reads what it has copied itself,
/// so that nobody waits for others.
template <class T>
class NormRows {
 public:
  using A = accumulator_t<T>;
  using Shape = RowShape<32, kPackWidth<T>, 1>;
  static constexpr int kWidth = Shape::kWidth;

  /// Bytes of shared memory of a block.
  static size_t bytes(const NormBackward<T>& p) {
    return static_cast<size_t>(2 * Shape::kRowsPerBlock * inputs(p) * p.length) * sizeof(T);
  }

  __device__ NormRows(const NormBackward<T>& p, unsigned char* memory)
      : p_(p),
        length_(static_cast<int>(p.length)),
        current_(reinterpret_cast<T*>(memory) +
                 static_cast<int>(threadIdx.x) / Shape::kThreads * 2 * inputs(p) * length_),
        next_(current_ + inputs(p) * length_) {}

  /// Starts to copy a row, the next one.
  __device__ __forceinline__ void fetch(int64_t row) {
    const int i = place();
    if (i >= length_) return;
    copy_pack_async(next_ + i, p_.dy + row * p_.dy_stride + i);
    copy_pack_async(next_ + length_ + i, p_.x + row * p_.x_stride + i);
    if (p_.added != nullptr) {
      copy_pack_async(next_ + 2 * length_ + i, p_.added + row * p_.added_stride + i);
    }
  }

  /// Makes the next row the current one, before the row after it is fetched.
  __device__ __forceinline__ void advance() {
    T* const free = current_;
    current_ = next_;
    next_ = free;
  }

  /// As RowReader's, over dy and x.
  template <class Body>
  __device__ __forceinline__ void for_each(Body&& body) const {
    const int i = place();
    if (i >= length_) return;
    A values[2][kWidth];
    widen_pack(load_pack<kWidth>(current_ + i), values[0]);
    widen_pack(load_pack<kWidth>(current_ + length_ + i), values[1]);
    body(int64_t{i}, values);
  }
  __device__ __forceinline__ Pack<T, kWidth> added(int64_t i) const {
    return load_pack<kWidth>(current_ + 2 * length_ + i);
  }

 private:
  static __host__ __device__ int inputs(const NormBackward<T>& p) {
    return p.added == nullptr ? 2 : 3;
  }
  static __device__ __forceinline__ int place() { return Shape::thread() * kWidth; }

  const NormBackward<T>& p_;
  int length_;
  T* current_;
  T* next_;
};

/// dx, and the sums of the columns of the rows of a block, for rows of one warp.
template <class T, bool kCentred>
__global__ void __launch_bounds__(NormRows<T>::Shape::kBlockThreads)
    norm_backward_narrow(const NormBackward<T> p) {
  using A = accumulator_t<T>;
  using Shape = typename NormRows<T>::Shape;
  constexpr int kWidth = Shape::kWidth;
  constexpr int kGroups = Shape::kRowsPerBlock;
  A gain_sums[kWidth] = {};
  A bias_sums[kWidth] = {};
  const int64_t end = p.first_row(blockIdx.x + 1);
  const int group = static_cast<int>(threadIdx.x) / Shape::kThreads;
  extern __shared__ __align__(16) unsigned char norm_rows[];
  NormRows<T> rows(p, norm_rows);
  NormStatistics<A> next;
  const auto fetch = [&](int64_t row) {
    if (row < end) {
      rows.fetch(row);
      next = NormStatistics<A>::template of<kCentred>(p, row);
    }
    end_copy_group();
  };
  const int64_t first = p.first_row(blockIdx.x) + group;
  fetch(first);
  for (int64_t row = first; row < end; row += kGroups) {
    const NormStatistics<A> statistics = next;
    rows.advance();
    fetch(row + kGroups);
    wait_for_copy_groups<1>();
    norm_backward_row<T, kCentred, Shape>(
        p, row, statistics, rows, [&](int64_t i) { return rows.added(i); },
        [&](int k, A d, A h) {
          gain_sums[k] += d * h;
          if (kCentred) bias_sums[k] += d;
        });
  }
  A* const to = p.partials + static_cast<int64_t>(blockIdx.x) * (kCentred ? 2 : 1) * p.length;
  const auto write = [&](A(&sums)[kWidth], A* out) {
    // The groups' sums of a column are added in the order of the groups.
    __shared__ A shared[kGroups][32 * kWidth];
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kWidth; ++k) shared[group][k * 32 + threadIdx.x % 32] = sums[k];
    __syncthreads();
    for (int c = static_cast<int>(threadIdx.x); c < p.length; c += Shape::kBlockThreads) {
      A total = 0;
#pragma unroll
      for (int g = 0; g < kGroups; ++g) total += shared[g][c % kWidth * 32 + c / kWidth];
      out[c] = total;
    }
  };
  write(gain_sums, to);
  if constexpr (kCentred) write(bias_sums, to + p.length);
}

/// Sums of values[0], ..., over the threads of a block of whole warps, for all of them. The steps
/// between lanes leave ever fewer values to ever fewer lanes, so that several values take little
/// longer than one. `parts` [kCount * 32] is shared, and zero where there are no warps; calls that
/// follow each other take turns with two of them, so that one barrier is enough.
template <int kCount, class A>
__device__ __forceinline__ void sum_together(A (&values)[kCount], A* parts) {
  constexpr int kLanes = 32 / kCount;  // that end up with the same value
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int count = kCount / 2; count > 0; count /= 2) {
    const int mask = count * kLanes;
    const bool is_upper = (lane & mask) != 0;
#pragma unroll
    for (int i = 0; i < count; ++i) {
      const A kept = is_upper ? values[i + count] : values[i];
      const A given = is_upper ? values[i] : values[i + count];
      values[i] = kept + shuffle_xor(given, mask);
    }
  }
  const A of_warp = sum_over<kLanes>(values[0]);
  A* const own = parts + lane / kLanes * 32;
  if (lane % kLanes == 0) own[threadIdx.x / 32] = of_warp;
  __syncthreads();
  A total = 0;
#pragma unroll
  for (int first = 0; first < 32; first += kLanes) total += own[first + lane % kLanes];
  total = sum_over<kLanes>(total);
#pragma unroll
  for (int i = 0; i < kCount; ++i) values[i] = shuffle(total, i * kLanes);
}

/// Threads of norm_backward_wide, at most, each of which has a pack of columns.
inline constexpr int kMostWideThreads = 1024;
/// Rows that it takes at a time.
inline constexpr int kWideRows = 2;

/// Groups of rows in its shared memory: one that is walked and two on their way.
inline constexpr int kWideStages = 3;

/// As norm_backward_narrow, for rows of a block: each thread has the same kWidth columns of all
/// rows, with gains and sums in few enough registers that a multiprocessor runs 1024 threads. Rows
/// go by twos, whose sums take one barrier; it also says that a stage is free again. With kBulk one
/// thread has whole rows of dy and x copied, for what its own share of that costs each thread is
/// what this kernel has least of: instructions. `added` is not for centred ones.
template <class T, bool kCentred, bool kBulk>
__global__ void __launch_bounds__(kMostWideThreads) norm_backward_wide(const NormBackward<T> p) {
  using A = accumulator_t<T>;
  constexpr int kWidth = kPackWidth<T>;
  constexpr int kRows = kWideRows;
  constexpr int kStages = kWideStages;
  constexpr int kSums = kCentred ? 2 : 1;  // of a row
  static_assert(32 % kRows == 0);
  extern __shared__ __align__(16) unsigned char norm_rows[];
  __shared__ A parts[2][kRows * kSums * 32];
  __shared__ TransferBarrier arrived[kStages];
  const int column = static_cast<int>(threadIdx.x) * kWidth;
  const auto length = static_cast<int>(p.length);
  const bool has_columns = column < length;
  // Blocks take groups in turn, so that all of them walk the same part of memory at a time.
  const auto rows_before = static_cast<int64_t>(blockIdx.x) * kRows;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kRows;
  const auto groups = static_cast<int>((p.rows - rows_before + step - 1) / step);
  const auto row_of = [&](int group) { return rows_before + group * step; };
  const auto place = [&](int stage, int input, int r) {
    return reinterpret_cast<T*>(norm_rows) + ((stage * 2 + input) * kRows + r) * length + column;
  };
  const auto fetch = [&](int group, int stage) {
    const int64_t row = row_of(group);
    if constexpr (kBulk) {
      if (threadIdx.x != 0 || group >= groups) return;
      const int rows = p.rows - row < kRows ? static_cast<int>(p.rows - row) : kRows;
      const auto bytes = static_cast<unsigned>(length * sizeof(T));
      const uint64_t policy = read_once_policy();
      arrive_expecting(arrived[stage], 2 * rows * bytes);
      const auto copy = [&](int input, const T* from, int64_t stride) {
        if (stride == length) {
          copy_bulk(place(stage, input, 0), from + row * stride, rows * bytes, arrived[stage],
                    policy);
          return;
        }
#pragma unroll 1
        for (int r = 0; r < rows; ++r) {
          copy_bulk(place(stage, input, r), from + (row + r) * stride, bytes, arrived[stage],
                    policy);
        }
      };
      copy(0, p.dy, p.dy_stride);
      copy(1, p.x, p.x_stride);
    } else {
      for (int r = 0; r < kRows && row + r < p.rows && has_columns; ++r) {
        copy_pack_async(place(stage, 0, r), p.dy + (row + r) * p.dy_stride + column);
        copy_pack_async(place(stage, 1, r), p.x + (row + r) * p.x_stride + column);
      }
      end_copy_group();
    }
  };
  // x * scale + shift is the normalised value, h. Each lane has those of one row of the next 32,
  // and reads those of the 32 after them.
  constexpr int kGroupsOfWarp = 32 / kRows;
  struct Statistics {
    A scale, shift;
  };
  const auto load_statistics = [&](int group) {
    Statistics result{};
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int64_t row = row_of(group + lane / kRows) + lane % kRows;
    if (row < p.rows) {
      result.scale = p.scale[row];
      if (kCentred) result.shift = -p.mean[row] * result.scale;
    }
    return result;
  };
  Statistics of_lane;
  Statistics of_lane_next = load_statistics(0);
  Pack<T, kWidth> next_added[kRows];
  const auto load_added = [&](int group) {
    if constexpr (!kCentred) {
      if (p.added == nullptr || !has_columns) return;
      const int64_t row = row_of(group);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        if (row + r >= p.rows) break;
        next_added[r] = load_pack<kWidth>(p.added + (row + r) * p.added_stride + column);
      }
    }
  };
  for (unsigned i = threadIdx.x; i < sizeof parts / sizeof(A); i += blockDim.x) parts[0][i] = 0;
  if (kBulk && threadIdx.x == 0) {
    for (TransferBarrier& barrier : arrived) init_barrier(barrier, 1);
    publish_barriers();
  }
  __syncthreads();
#pragma unroll
  for (int stage = 0; stage < kStages - 1; ++stage) fetch(stage, stage);
  load_added(0);
  A gain[kWidth] = {};
  if (has_columns) load_values<kWidth>(p.gain + column, gain);
  A gain_sums[kWidth] = {};
  A bias_sums[kWidth] = {};
  const A share = A(1) / static_cast<A>(length);
  int stage = 0;
  unsigned parity = 0;
  int buffer = 0;
  for (int group = 0; group < groups; ++group, buffer ^= 1) {
    const int64_t row = row_of(group);
    const int first_lane = group % kGroupsOfWarp * kRows;
    if (first_lane == 0) {
      of_lane = of_lane_next;
      of_lane_next = load_statistics(group + kGroupsOfWarp);
    }
    Statistics rows[kRows];
    Pack<T, kWidth> added[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      rows[r].scale = shuffle(of_lane.scale, first_lane + r);
      rows[r].shift = kCentred ? shuffle(of_lane.shift, first_lane + r) : A(0);
      if (!kCentred) added[r] = next_added[r];
    }
    load_added(group + 1);
    if constexpr (kBulk) {
      wait(arrived[stage], parity);
    } else {
      wait_for_copy_groups<kStages - 2>();
    }
    A sums[kRows * kSums] = {};
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (row + r >= p.rows || !has_columns) break;
      A d[kWidth], values[kWidth];
      unpack(load_pack<kWidth>(place(stage, 0, r)), d);
      unpack(load_pack<kWidth>(place(stage, 1, r)), values);
#pragma unroll
      for (int k = 0; k < kWidth; ++k) {
        const A u = d[k] * gain[k];
        sums[r * kSums] += u * (values[k] * rows[r].scale + rows[r].shift);
        if (kCentred) sums[r * kSums + 1] += u;
      }
    }
    sum_together(sums, parts[buffer]);
    // All threads have walked the rows before these.
    fetch(group + kStages - 1, stage == 0 ? kStages - 1 : stage - 1);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (row + r >= p.rows || !has_columns) break;
      // dx = scale * (u - mean(u) - h * mean(u * h)), as two fused steps from h.
      const A slope = -sums[r * kSums] * share * rows[r].scale;
      const A offset = kCentred ? -sums[r * kSums + 1] * share * rows[r].scale : A(0);
      A d[kWidth], values[kWidth];
      unpack(load_pack<kWidth>(place(stage, 0, r)), d);
      unpack(load_pack<kWidth>(place(stage, 1, r)), values);
#pragma unroll
      for (int k = 0; k < kWidth; ++k) {
        const A h = values[k] * rows[r].scale + rows[r].shift;
        gain_sums[k] += d[k] * h;
        if (kCentred) bias_sums[k] += d[k];
        values[k] = d[k] * gain[k] * rows[r].scale + (h * slope + offset);
      }
      if (!kCentred && p.added != nullptr) {
        unpack(added[r], d);
#pragma unroll
        for (int k = 0; k < kWidth; ++k) values[k] += d[k];
      }
      store_pack(p.dx + (row + r) * p.length + column, packed<T>(values));
    }
    stage = stage == kStages - 1 ? 0 : stage + 1;
    parity ^= stage == 0 ? 1u : 0u;
  }
  if (!has_columns) return;
  A* const to = p.partials + static_cast<int64_t>(blockIdx.x) * kSums * p.length + column;
  store_values(to, gain_sums);
  if constexpr (kCentred) store_values(to + p.length, bias_sums);
}

// Blocks of 32 columns by 16 rows at a time, or by 32 parts of sums.
inline constexpr int kNormColumns = 32;
inline constexpr int kNormLanes = 16;
inline constexpr int kPartLanes = 32;

/// Adds the lanes' values of a column in their order; the result is for lane 0.
template <int kLanes, class A>
__device__ __forceinline__ A add_lanes(A value) {
  __shared__ A parts[kLanes][kNormColumns];
  __syncthreads();
  parts[threadIdx.y][threadIdx.x] = value;
  __syncthreads();
  A total = 0;
  if (threadIdx.y == 0) {
#pragma unroll
    for (int lane = 0; lane < kLanes; ++lane) total += parts[lane][threadIdx.x];
  }
  return total;
}

/// The sums of the columns alone, for rows of any length: blocks (x, y) take columns x and rows y.
template <class T, bool kCentred>
__global__ void __launch_bounds__(kNormColumns* kNormLanes)
    norm_backward_columns(const NormBackward<T> p) {
  using A = accumulator_t<T>;
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kNormColumns + threadIdx.x;
  const int64_t begin = p.first_row(blockIdx.y);
  const int64_t end = p.first_row(blockIdx.y + 1);
  A gain_sum = 0;
  A bias_sum = 0;
  if (column < p.length) {
#pragma unroll 4
    for (int64_t row = begin + threadIdx.y; row < end; row += kNormLanes) {
      const A d = widen(p.dy[row * p.dy_stride + column]);
      const A centred = widen(p.x[row * p.x_stride + column]) - (kCentred ? p.mean[row] : A(0));
      gain_sum += d * centred * p.scale[row];
      bias_sum += d;
    }
  }
  gain_sum = add_lanes<kNormLanes>(gain_sum);
  if (kCentred) bias_sum = add_lanes<kNormLanes>(bias_sum);
  if (threadIdx.y != 0 || column >= p.length) return;
  A* const to = p.partials + static_cast<int64_t>(blockIdx.y) * (kCentred ? 2 : 1) * p.length;
  to[column] = gain_sum;
  if (kCentred) to[p.length + column] = bias_sum;
}

/// Adds the rows of partials [blocks, length] in their order.
template <class A>
__global__ void __launch_bounds__(kNormColumns* kPartLanes)
    sum_partials(const A* __restrict__ partials, int64_t blocks, int64_t length,
                 A* __restrict__ total) {
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kNormColumns + threadIdx.x;
  const int64_t share = (blocks + kPartLanes - 1) / kPartLanes;
  const int64_t begin = share * threadIdx.y;
  const int64_t end = begin + share < blocks ? begin + share : blocks;
  A sum = 0;
  if (column < length) {
#pragma unroll 16
    for (int64_t block = begin; block < end; ++block) sum += partials[block * length + column];
  }
  sum = add_lanes<kPartLanes>(sum);
  if (threadIdx.y == 0 && column < length) total[column] = sum;
}

/// Blocks of a kernel with so much dynamic shared memory that the device runs at a time.
template <class Kernel>
int64_t resident_blocks(Kernel* kernel, unsigned threads, size_t shared_bytes, Stream stream) {
  const DeviceGuard guard(stream.device().index);
  const auto* const address = reinterpret_cast<const void*>(kernel);
  int per_multiprocessor = 0;
  WEFT_CUDA_CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(
      &per_multiprocessor, address, static_cast<int>(threads), shared_bytes));
  return int64_t{std::max(1, per_multiprocessor)} *
         device_context(stream.device()).multiprocessors();
}

/// Runs the backward pass; `sums` [columns' sums] may be null.
template <class T, bool kCentred>
void run_norm_backward(NormBackward<T> p, bool aligned, accumulator_t<T>* sums, const char* op,
                       Stream stream) {
  using A = accumulator_t<T>;
  constexpr int kWidth = kPackWidth<T>;
  const int64_t width = (kCentred ? 2 : 1) * p.length;
  Tensor partials;
  const auto split = [&](int64_t max_blocks, int64_t rows_at_once) {
    // Sums of fewer rows than this would cost more to add up than they save.
    const int64_t least = 4 * rows_at_once;
    const int64_t blocks = std::clamp<int64_t>(p.rows / least, 1, max_blocks);
    p.rows_of_all = p.rows / blocks;
    p.with_one_more = p.rows % blocks;
    partials = empty({blocks, width}, dtype_of<A>, stream.device());
    p.partials = partials.data<A>();
    return static_cast<unsigned>(blocks);
  };
  bool done = false;
  if constexpr (!std::is_same_v<T, double>) {
    const auto both = [&](auto* kernel, unsigned threads, size_t shared, int64_t rows_at_once) {
      // All blocks run at once: of a few more than fit, the rest would run almost alone.
      allow_shared_bytes(kernel, shared, stream);
      const unsigned blocks = split(resident_blocks(kernel, threads, shared, stream), rows_at_once);
      launch(op, stream, {blocks, threads, shared}, kernel, p);
      done = true;
    };
    if (sums != nullptr && aligned && p.length <= 32 * kWidth) {
      using Shape = typename NormRows<T>::Shape;
      both(&norm_backward_narrow<T, kCentred>, Shape::kBlockThreads, NormRows<T>::bytes(p),
           Shape::kRowsPerBlock);
    } else if (sums != nullptr && aligned && p.length <= kMostWideThreads * kWidth) {
      const auto threads = static_cast<unsigned>(ceil_div(p.length, 32 * kWidth) * 32);
      constexpr size_t kOwnBytes = 4096;  // of the sums and barriers, rounded up
      const auto shared = static_cast<size_t>(kWideStages * kWideRows * 2 * p.length) * sizeof(T);
      const bool bulk = code_capability(stream.device()) >= 90;
      const size_t most = device_context(stream.device()).properties().sharedMemPerBlockOptin;
      if (shared + kOwnBytes <= most)
        both(
            bulk ? &norm_backward_wide<T, kCentred, true> : &norm_backward_wide<T, kCentred, false>,
            threads, shared, kWideRows);
    }
  }
  if (!done) {
    dispatch_row_shape<T, 2>(p.length, aligned, [&]<class Shape>() {
      launch(op, stream, {Shape::blocks(p.rows), Shape::kBlockThreads},
             norm_backward_rows<T, kCentred, Shape>, p);
    });
    if (sums == nullptr) return;
    const auto column_blocks = static_cast<unsigned>(ceil_div(p.length, kNormColumns));
    const unsigned row_blocks = split(std::max<int64_t>(1, 1056 / column_blocks), kNormLanes);
    launch(op, stream, {dim3(column_blocks, row_blocks), dim3(kNormColumns, kNormLanes)},
           norm_backward_columns<T, kCentred>, p);
  }
  launch(op, stream,
         {static_cast<unsigned>(ceil_div(width, kNormColumns)), dim3(kNormColumns, kPartLanes)},
         sum_partials<A>, p.partials, partials.size(0), width, sums);
}

}  // namespace weft::cuda
