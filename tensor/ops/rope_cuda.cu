#include <bit>

#include "weft/tensor/error.h"

#include "cuda/index_math.h"
#include "ops/rope_kernels.h"
#include "ops/rows_cuda.cuh"

namespace weft {
namespace {

using namespace cuda;

constexpr int kThreads = 256;
/// Heads that a thread turns by angles it has read once.
constexpr int kHeads = 2;
/// The same of turn_whole_packs, whose threads take half as much of a head.
constexpr int kWholeHeads = 4;

template <class T>
struct Turn {
  using A = accumulator_t<T>;
  const T* in;
  T* out;
  int64_t in_strides[3], out_strides[3];  // of batch, token and head
  int64_t heads;
  uint32_t units;
  FastDivisor packs, groups, tokens;  // the digits of a unit, the first the fastest
  const A* table;
  int64_t table_rows, half, begin, channels;
  const int64_t* rows;  // may be null
  int64_t row_strides[2];
  int64_t first_row, row_step;
  Fault* fault;
  const char* op;  // an address of the host
  A sign;          // of the sines
};

/// The table's row of a token; one outside the table is reported.
template <class T>
__device__ __forceinline__ int64_t table_row(const Turn<T>& p, int64_t b, int64_t t) {
  const int64_t row = p.rows == nullptr ? p.first_row + t * p.row_step
                                        : p.rows[b * p.row_strides[0] + t * p.row_strides[1]];
  if (row >= 0 && row < p.table_rows) return row;
  report_fault(p.fault, FaultKind::index, p.op, row, p.table_rows);
  return row < 0 ? 0 : p.table_rows - 1;
}

/// A thread takes kWidth pairs of channels of kHeads heads, or kWidth channels to be copied.
template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads) turn(const Turn<T> p) {
  using A = accumulator_t<T>;
  const uint32_t unit = blockIdx.x * kThreads + threadIdx.x;
  if (unit >= p.units) return;
  const auto pairs = static_cast<uint32_t>(p.half / kWidth);
  uint32_t rest = p.packs.quotient(unit);
  const uint32_t pack = unit - rest * p.packs.divisor;
  const uint32_t per_group = p.groups.quotient(rest);
  const int64_t head = int64_t{rest - per_group * p.groups.divisor} * kHeads;
  const int64_t b = p.tokens.quotient(per_group);
  const int64_t t = per_group - b * p.tokens.divisor;
  const T* const in = p.in + b * p.in_strides[0] + t * p.in_strides[1] + head * p.in_strides[2];
  T* const out = p.out + b * p.out_strides[0] + t * p.out_strides[1] + head * p.out_strides[2];
  const int64_t left = p.heads - head;
  if (pack >= pairs) {
    int64_t channel = int64_t{pack - pairs} * kWidth;
    if (channel >= p.begin) channel += 2 * p.half;
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      if (h < left) {
        store_pack(out + h * p.out_strides[2] + channel,
                   load_pack<kWidth>(in + h * p.in_strides[2] + channel));
      }
    }
    return;
  }
  const int64_t row = table_row(p, b, t);
  const int64_t channel = p.begin + int64_t{pack} * kWidth;
  Pack<T, kWidth> low[kHeads];
  Pack<T, kWidth> high[kHeads];
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    if (h < left) {
      low[h] = load_pack<kWidth>(in + h * p.in_strides[2] + channel);
      high[h] = load_pack<kWidth>(in + h * p.in_strides[2] + channel + p.half);
    }
  }
  A cosines[kWidth];
  A sines[kWidth];
  const A* const angles = p.table + row * 2 * p.half + int64_t{pack} * kWidth;
  load_values<kWidth>(angles, cosines);
  load_values<kWidth>(angles + p.half, sines);
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    if (h < left) {
      A first[kWidth];
      A second[kWidth];
#pragma unroll
      for (int k = 0; k < kWidth; ++k) {
        const A a = widen(low[h].values[k]);
        const A b = widen(high[h].values[k]);
        const A sine = sines[k] * p.sign;
        first[k] = a * cosines[k] - b * sine;
        second[k] = b * cosines[k] + a * sine;
      }
      store_values(out + h * p.out_strides[2] + channel, first);
      store_values(out + h * p.out_strides[2] + channel + p.half, second);
    }
  }
}

/// Heads of a power of two of packs, at most a warp's: a warp takes whole heads of a token, a
/// thread one pack of kWholeHeads of them, whose other halves its lanes have. So every load and
/// store of a warp is of neighbouring packs, where the heads are neighbours.
template <class T>
__global__ void __launch_bounds__(kThreads, 4)
    turn_whole_packs(const Turn<T> p, int packs_of_head) {
  using A = accumulator_t<T>;
  constexpr int kWidth = kPackWidth<T>;
  using Packed = Pack<T, kWidth>;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int pack = lane % packs_of_head;
  const int heads_at_once = 32 / packs_of_head;
  const uint32_t unit = blockIdx.x * (kThreads / 32) + threadIdx.x / 32;  // of a warp
  if (unit >= p.units) return;
  const uint32_t token = p.groups.quotient(unit);
  const int64_t first_head =
      int64_t{unit - token * p.groups.divisor} * (kWholeHeads * heads_at_once) +
      lane / packs_of_head;
  const int64_t b = p.tokens.quotient(token);
  const int64_t t = token - b * p.tokens.divisor;
  const int64_t channel = int64_t{pack} * kWidth;
  const T* const in = p.in + b * p.in_strides[0] + t * p.in_strides[1] + channel;
  T* const out = p.out + b * p.out_strides[0] + t * p.out_strides[1] + channel;
  Packed own[kWholeHeads];
#pragma unroll
  for (int h = 0; h < kWholeHeads; ++h) {
    const int64_t head = first_head + h * heads_at_once;
    if (head < p.heads) own[h] = load_pack<kWidth>(in + head * p.in_strides[2]);
  }
  const int64_t turned = channel - p.begin;  // among the channels that turn
  const bool turns = turned >= 0 && turned < 2 * p.half;
  const bool is_low = turned < p.half;
  const int distance = static_cast<int>(p.half / kWidth);
  const int other_lane = !turns ? lane : is_low ? lane + distance : lane - distance;
  A cosines[kWidth];
  A sines[kWidth];
  if (turns) {
    const A* const angles =
        p.table + table_row(p, b, t) * 2 * p.half + (is_low ? turned : turned - p.half);
    load_values<kWidth>(angles, cosines);
    load_values<kWidth>(angles + p.half, sines);
    const A sign = is_low ? -p.sign : p.sign;
#pragma unroll
    for (int k = 0; k < kWidth; ++k) sines[k] *= sign;
  }
#pragma unroll
  for (int h = 0; h < kWholeHeads; ++h) {
    const int64_t head = first_head + h * heads_at_once;
    const Packed other = shuffle(own[h], other_lane);
    if (head >= p.heads) continue;
    if (turns) {
      A results[kWidth];
#pragma unroll
      for (int k = 0; k < kWidth; ++k) {
        results[k] = widen(own[h].values[k]) * cosines[k] + widen(other.values[k]) * sines[k];
      }
      store_values(out + head * p.out_strides[2], results);
    } else if (p.in != p.out) {
      store_pack(out + head * p.out_strides[2], own[h]);
    }
  }
}

}  // namespace

void rope_cuda(RopeParams& params, Stream stream) {
  const Tensor& x = params.x;
  const Strides& in = x.strides();
  const Strides& out = params.out.strides();
  dispatch_floating(x.dtype(), "rope", [&]<class T>() {
    using A = accumulator_t<T>;
    Turn<T> p{.in = x.data<T>(),
              .out = params.out.data<T>(),
              .in_strides = {in[0], in[1], in[2]},
              .out_strides = {out[0], out[1], out[2]},
              .heads = x.size(2),
              .units = 0,
              .packs = {},
              .groups = {},
              .tokens = {},
              .table = params.table.data<A>(),
              .table_rows = params.table.size(0),
              .half = params.table.size(1) / 2,
              .begin = params.begin,
              .channels = x.size(3),
              .rows = params.rows.defined() ? params.rows.data<int64_t>() : nullptr,
              .row_strides = {0, 0},
              .first_row = params.first_row,
              .row_step = params.row_step,
              .fault = fault_slot(stream.device()),
              .op = "rope",
              .sign = params.inverse ? A(-1) : A(1)};
    if (p.rows != nullptr) {
      p.row_strides[0] = params.rows.strides()[0];
      p.row_strides[1] = params.rows.strides()[1];
    }
    constexpr int kWidth = kPackWidth<T>;
    int64_t steps = p.half | p.begin | p.channels;
    for (int axis = 0; axis < 3; ++axis) steps |= p.in_strides[axis] | p.out_strides[axis];
    const bool aligned = steps % kWidth == 0 && is_aligned(p.in, 0) && is_aligned(p.out, 0) &&
                         is_aligned(p.table, 0);
    const int64_t packs_of_head = p.channels / kWidth;
    if (aligned && packs_of_head <= 32 &&
        std::has_single_bit(static_cast<uint64_t>(packs_of_head))) {
      const int64_t groups = ceil_div(p.heads * packs_of_head, 32 * kWholeHeads);
      const int64_t units = x.size(0) * x.size(1) * groups;
      if (units > 0 && units < int64_t{1} << 31) {
        p.units = static_cast<uint32_t>(units);
        p.groups = FastDivisor(static_cast<uint32_t>(groups));
        p.tokens = FastDivisor(static_cast<uint32_t>(x.size(1)));
        launch("rope", stream, {blocks_for(units, kThreads / 32), kThreads}, turn_whole_packs<T>, p,
               static_cast<int>(packs_of_head));
        return;
      }
    }
    const int width = aligned ? kWidth : 1;
    // In place, the channels that do not turn stay.
    const int64_t kept = p.in == p.out ? 2 * p.half : p.channels;
    const int64_t packs = (kept - p.half) / width;
    const int64_t groups = ceil_div(p.heads, kHeads);
    const int64_t units = x.size(0) * x.size(1) * groups * packs;
    if (units == 0) return;
    if (units >= int64_t{1} << 31) {
      throw ShapeError("rope: takes tensors of fewer than 2^31 pairs of channels on a GPU");
    }
    p.units = static_cast<uint32_t>(units);
    p.packs = FastDivisor(static_cast<uint32_t>(packs));
    p.groups = FastDivisor(static_cast<uint32_t>(groups));
    p.tokens = FastDivisor(static_cast<uint32_t>(x.size(1)));
    const LaunchShape shape{blocks_for(p.units, kThreads), kThreads};
    launch("rope", stream, shape, aligned ? turn<T, kWidth> : turn<T, 1>, p);
  });
}

}  // namespace weft
