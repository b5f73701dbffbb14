// Columns must be read twice, for their totals and for the results. One kernel does both, strip of
// columns after strip, so that the second reading of a strip comes while the second-level cache
// still has it. Blocks take tiles by tickets, those of results some strips behind those of totals.
// Only tiles of results wait, for totals of tiles with lower tickets, which have started before.
#include <algorithm>
#include <limits>

#include "cuda/async_copy.cuh"
#include "cuda/marked_value.cuh"
#include "ops/exponential_cuda.cuh"
#include "ops/loaded_cuda.cuh"
#include "ops/softmax_strips_cuda.h"

namespace weft {
namespace {

using namespace cuda;

constexpr int kStripThreads = 256;
constexpr int kAcross = 8;  // packs of a row of a strip: 128 bytes
constexpr int kLanes = kStripThreads / kAcross;
constexpr int kRowsOfThread = 8;
constexpr int kRowsOfTile = kLanes * kRowsOfThread;
template <class T>
constexpr int kColumnsOfStrip = kAcross* kPackWidth<T>;
/// Tickets between a strip's totals and its results: as many as there may be blocks at work, and
/// those that come and go while the last totals of a strip are combined, but not so many that the
/// cache has lost the strip: beside the results it keeps little more than 10 MB.
constexpr int64_t kTicketsBetween = 700;

template <class T>
struct Strips {
  const T* x;
  T* y;
  int64_t length, inner;
  uint32_t of_group = 0;  // strips side by side
  uint32_t strips = 0, tiles = 0;
  uint32_t ahead = 0;  // strips by which totals are ahead of results
  bool log = false;
};

/// Beside the results the kernel has a board, which begins with zeros: a ticket counter, how many
/// tiles of each strip have made their totals, and what they come to, marked, in pairs.
struct Board {
  Marked* tickets;
  Marked* done;    // [strips]
  Marked* finals;  // [strips, columns, 2]
  float2* totals;  // [strips, tiles, columns]: maximum, and sum of e^(x - maximum)
};

/// Of -infinity alone e^x is zero about any finite value.
__device__ __forceinline__ float shift_of(float max) {
  return max == kMinusInfinity<float> ? 0.0f : max;
}

template <class T>
__device__ __forceinline__ float2 join(float2 a, float2 b) {
  const float max = KeepLarger()(a.x, b.x);
  const float shift = shift_of(max);
  return {max, a.y * quick_exponential<T>(a.x - shift) + b.y * quick_exponential<T>(b.x - shift)};
}

constexpr int kStripWarps = kStripThreads / 32;

/// The total of column number threadIdx.x of a tile, if there is such a one. `parts` is shared
/// memory for a column of each warp; rows(r) gives row number r of this thread.
template <class T, class Rows>
__device__ __forceinline__ float2 total_of_tile(float2* parts, const Rows& rows) {
  constexpr int kWidth = kPackWidth<T>, kColumns = kColumnsOfStrip<T>;
  const int thread = static_cast<int>(threadIdx.x);
  float max[kWidth], sum[kWidth];
#pragma unroll
  for (int k = 0; k < kWidth; ++k) {
    max[k] = kMinusInfinity<float>;
    sum[k] = 0;
  }
#pragma unroll
  for (int r = 0; r < kRowsOfThread; ++r) {
    const Loaded<T, kWidth> row = rows(r);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) max[k] = KeepLarger()(max[k], row[k]);
  }
#pragma unroll
  for (int k = 0; k < kWidth; ++k) {
#pragma unroll
    for (int mask = kAcross; mask < 32; mask *= 2) {
      max[k] = KeepLarger()(max[k], shuffle_xor(max[k], mask));
    }
  }
#pragma unroll
  for (int r = 0; r < kRowsOfThread; ++r) {
    const Loaded<T, kWidth> row = rows(r);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      sum[k] += quick_exponential<T>(row[k] - shift_of(max[k]));
    }
  }
#pragma unroll
  for (int k = 0; k < kWidth; ++k) {
#pragma unroll
    for (int mask = kAcross; mask < 32; mask *= 2) sum[k] += shuffle_xor(sum[k], mask);
  }
  if (thread % 32 < kAcross) {
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      parts[thread / 32 * kColumns + thread % kAcross * kWidth + k] = {max[k], sum[k]};
    }
  }
  __syncthreads();
  float2 total{kMinusInfinity<float>, 0};
  if (thread < kColumns) {
#pragma unroll
    for (int warp = 0; warp < kStripWarps; ++warp) {
      total = join<T>(total, parts[warp * kColumns + thread]);
    }
  }
  return total;
}

/// The total of a tile. The last one to be done combines those of its strip.
template <class T, class Rows>
__device__ __forceinline__ void make_totals(const Strips<T>& p, const Board& board, uint32_t strip,
                                            uint32_t tile, const Rows& rows) {
  constexpr int kColumns = kColumnsOfStrip<T>;
  static_assert(kStripThreads <= kStripWarps * 64 && kColumns <= 64);
  __shared__ float2 parts[kStripWarps * 64];  // [warps or others, columns]
  __shared__ bool is_last;
  const int thread = static_cast<int>(threadIdx.x);
  const float2 of_tile = total_of_tile<T>(parts, rows);
  float2* const totals = board.totals + static_cast<int64_t>(strip) * p.tiles * kColumns;
  if (thread < kColumns) {
    __stcg(totals + static_cast<int64_t>(tile) * kColumns + thread, of_tile);
    __threadfence();
  }
  __syncthreads();
  if (thread == 0) is_last = atomicAdd(board.done + strip, Marked{1}) + 1 == p.tiles;
  __syncthreads();
  if (!is_last) return;

  __threadfence();
  constexpr int kSharers = kStripThreads / kColumns;  // of a column
  constexpr uint32_t kTogether = 8;
  const int column = thread % kColumns;
  float2 total{kMinusInfinity<float>, 0};
  for (uint32_t i = thread / kColumns; i < p.tiles; i += kSharers * kTogether) {
    float2 some[kTogether];
#pragma unroll
    for (uint32_t j = 0; j < kTogether; ++j) {
      some[j] = {kMinusInfinity<float>, 0};
      if (i + j * kSharers < p.tiles) {
        some[j] = __ldcg(totals + static_cast<int64_t>(i + j * kSharers) * kColumns + column);
      }
    }
#pragma unroll
    for (uint32_t j = 0; j < kTogether; ++j) total = join<T>(total, some[j]);
  }
  parts[thread] = total;  // [sharers, columns]; all have read what was there
  __syncthreads();
  if (thread >= kColumns) return;
#pragma unroll
  for (int other = 1; other < kSharers; ++other) {
    total = join<T>(total, parts[other * kColumns + thread]);
  }
  const float scale = p.log ? ::log(total.y) : 1 / total.y;
  Marked* const to = board.finals + (static_cast<int64_t>(strip) * kColumns + thread) * 2;
  store_marked(to, __float_as_uint(total.x), 1);
  store_marked(to + 1, __float_as_uint(scale), 1);
}

/// Writes the results of a tile, whose rows begin at p.y + from, `step` apart. Those of x are still
/// on their way.
template <class T, class Rows>
__device__ __forceinline__ void make_results(const Strips<T>& p, const Board& board, uint32_t strip,
                                             const Rows& rows, int64_t from, int64_t step,
                                             int64_t left) {
  constexpr int kWidth = kPackWidth<T>, kColumns = kColumnsOfStrip<T>;
  __shared__ float2 finals[kColumns];
  const int thread = static_cast<int>(threadIdx.x);
  if (thread < kColumns) {
    const Marked* const at = board.finals + (static_cast<int64_t>(strip) * kColumns + thread) * 2;
    MarkedTwo found = peek_two_marked(at);
    while (!have_mark(found, 1)) found = peek_two_marked(at);
    const uint2 bits = bits_of(found);
    finals[thread] = {__uint_as_float(bits.x), __uint_as_float(bits.y)};
  }
  wait_for_copy_groups<0>();
  __syncthreads();
  float max[kWidth], scale[kWidth];
#pragma unroll
  for (int k = 0; k < kWidth; ++k) {
    const float2 both = finals[thread % kAcross * kWidth + k];
    max[k] = both.x;
    scale[k] = both.y;
  }
#pragma unroll
  for (int r = 0; r < kRowsOfThread; ++r) {
    if (r * kLanes >= left) break;
    const Loaded<T, kWidth> row = rows(r);
    Pack<T, kWidth> results;
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      const float distance = row[k] - shift_of(max[k]);  // -infinity where the column is
      const float result = p.log ? distance - scale[k] : exponential<T>(distance) * scale[k];
      results.values[k] =
          narrow<T>(max[k] == kMinusInfinity<float> ? (p.log ? max[k] : 0.0f) : result);
    }
    // Results are not read again, and should leave the cache to what is.
    uint4 bits;
    memcpy(&bits, &results, sizeof bits);
    __stcs(reinterpret_cast<uint4*>(p.y + from + r * step), bits);
  }
}

template <class T>
__global__ void __launch_bounds__(kStripThreads, 4)
    softmax_strips(const Strips<T> p, const Board board) {
  constexpr int kWidth = kPackWidth<T>;
  __shared__ Pack<T, kWidth> slots[kRowsOfThread][kStripThreads];
  __shared__ uint32_t shared_ticket;
  if (threadIdx.x == 0) shared_ticket = static_cast<uint32_t>(atomicAdd(board.tickets, Marked{1}));
  __syncthreads();
  const uint32_t turn = shared_ticket / p.tiles;
  const uint32_t tile = shared_ticket - turn * p.tiles;
  // Turns of a strip: first totals of `ahead` strips, then totals and results by turns, and results
  // in the end.
  const uint32_t by_turns = 2 * (p.strips - p.ahead);
  uint32_t strip = turn;
  bool has_results = false;
  if (turn >= p.ahead + by_turns) {
    strip = turn - p.strips;
    has_results = true;
  } else if (turn >= p.ahead) {
    strip = (turn - p.ahead) / 2;
    has_results = (turn - p.ahead) % 2 != 0;
    if (!has_results) strip += p.ahead;
  }
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t group = strip / p.of_group;
  const int64_t inside = ((strip - group * p.of_group) * kAcross + thread % kAcross) * kWidth;
  const int64_t row = static_cast<int64_t>(tile) * kRowsOfTile + thread / kAcross;
  const int64_t from = (group * p.length + row) * p.inner + inside;
  const int64_t step = kLanes * p.inner;
  const int64_t left = inside < p.inner ? p.length - row : 0;  // rows, those of other lanes as well

  Pack<T, kWidth> nothing;
#pragma unroll
  for (int k = 0; k < kWidth; ++k) nothing.values[k] = narrow<T>(kMinusInfinity<float>);
  const uint64_t policy = policy_of_last_reading();
#pragma unroll
  for (int r = 0; r < kRowsOfThread; ++r) {
    if (r * kLanes >= left) {
      slots[r][thread] = nothing;
    } else if (has_results) {
      copy_pack_async(&slots[r][thread], p.x + from + r * step, policy);
    } else {
      copy_pack_async(&slots[r][thread], p.x + from + r * step);
    }
  }
  end_copy_group();
  const auto rows = [&](int r) {
    Loaded<T, kWidth> row;
    static_assert(sizeof row == sizeof slots[r][thread]);
    memcpy(&row, &slots[r][thread], sizeof row);
    return row;
  };
  if (has_results) {
    make_results(p, board, strip, rows, from, step, left);
  } else {
    wait_for_copy_groups<0>();
    make_totals(p, board, strip, tile, rows);
  }
}

template <class T>
bool run_strips(const Tensor& x, Tensor& y, bool log, Stream stream) {
  constexpr int kWidth = kPackWidth<T>, kColumns = kColumnsOfStrip<T>;
  const int64_t outer = x.size(0), length = x.size(1), inner = x.size(2);
  Strips<T> p{.x = x.data<T>(), .y = y.data<T>(), .length = length, .inner = inner};
  // What is shorter is soon read again anyway.
  if (length < kRowsOfTile || inner % kWidth != 0 || !is_aligned(p.x, 0) || !is_aligned(p.y, 0)) {
    return false;
  }
  const int64_t of_group = ceil_div(inner, kColumns);
  const int64_t strips = outer * of_group, tiles = ceil_div(length, kRowsOfTile);
  if (2 * strips * tiles > std::numeric_limits<int32_t>::max()) return false;
  p.of_group = static_cast<uint32_t>(of_group);
  p.strips = static_cast<uint32_t>(strips);
  p.tiles = static_cast<uint32_t>(tiles);
  p.ahead = static_cast<uint32_t>(std::min(strips, ceil_div(kTicketsBetween, 2 * tiles)));
  p.log = log;

  const int64_t before = 2 + (strips + 1) / 2 * 2;  // pairs of finals begin at 16 bytes
  const int64_t words = before + strips * kColumns * 2;
  const Tensor memory = empty({words + strips * tiles * kColumns}, DType::i64, stream.device());
  auto* const start = reinterpret_cast<Marked*>(memory.raw_data());
  const Board board{start, start + 2, start + before, reinterpret_cast<float2*>(start + words)};
  {
    const DeviceGuard guard(stream.device().index);
    WEFT_CUDA_CHECK(
        cudaMemsetAsync(start, 0, static_cast<size_t>(words) * sizeof(Marked), native(stream)));
  }
  launch("softmax", stream, {static_cast<unsigned>(2 * strips * tiles), kStripThreads},
         softmax_strips<T>, p, board);
  return true;
}

}  // namespace

bool cuda::softmax_strips_cuda(const Tensor& x, Tensor& y, bool log, Stream stream) {
  switch (x.dtype()) {
    case DType::f32:
      return run_strips<float>(x, y, log, stream);
    case DType::bf16:
      return run_strips<bf16>(x, y, log, stream);
    case DType::f16:
      return run_strips<f16>(x, y, log, stream);
    default:
      return false;
  }
}

}  // namespace weft
