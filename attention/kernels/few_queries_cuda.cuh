#pragma once

// Attention of few query rows. The keys of a key head are cut into parts of equal length, one a
// block. Within a block a group of kLanes lanes has a key at a time, 16 bytes of it a lane, and the
// query rows of the head in registers; every group keeps the softmax of the keys it has met, and
// the groups, then the parts, are merged in their order.
//
// In a decoding step the position is read from memory, so that a captured launch serves every
// length: parts share out the keys that are there, and blocks without any end at once.
#include <limits>

#include "cuda/overlapped_launch.cuh"
#include "cuda/streaming_load.cuh"
#include "kernels/few_queries_cuda.h"
#include "ops/rows_cuda.cuh"

namespace weft::attention::gpu {

using cuda::kPackWidth;
using cuda::narrow;
using cuda::Pack;
using cuda::widen;
using cuda::widen_pack;

inline constexpr int kFewThreads = 128;
inline constexpr int kMostSplits = 64;

template <class T>
struct FewQueries {
  struct Rows {
    const T* data;
    int64_t batch_stride, row_stride, head_stride;
    __device__ __forceinline__ const T* at(int b, int64_t row, int head) const {
      return data + b * batch_stride + row * row_stride + head * head_stride;
    }
  };
  Rows q, k, v, o;
  float* lse;  // [B, H, T]; may be null
  int queries, heads, kv_heads, dim;
  float scale;             // of scores in units of log 2
  int splits, least_keys;  // of a part
  float* sums;             // [B, H, T, splits, D]
  float* statistics;       // [B, H, T, splits, 2]
  unsigned* counters;      // of units, or null where another kernel merges

  // Keys [first, first + keys) of a problem that the host knows.
  int64_t first, keys;
  bool causal;
  int64_t window, position;

  // A decoding step: q is its packed projection.
  const int64_t* device_position;
  const float* table;  // may be null
  int64_t table_rows, slots;

  __device__ __forceinline__ int group() const { return heads / kv_heads; }
  __device__ __forceinline__ int64_t statistics_at(int b, int kv_head, int row) const {
    const int head = kv_head * group() + row % group();
    return (static_cast<int64_t>(b) * heads + head) * queries + row / group();
  }
};

/// The query rows of a block: those of one key head, ordered by token and then by head.
template <int kRows>
struct FewRowsUnit {
  int b, kv_head, first_row, rows, id;

  template <class T>
  __device__ __forceinline__ FewRowsUnit(const FewQueries<T>& p, int y, int z)
      : b(z),
        kv_head(y % p.kv_heads),
        first_row(y / p.kv_heads * kRows),
        rows(min(kRows, p.queries * p.group() - first_row)),
        id(z * static_cast<int>(gridDim.y) + y) {}
};

/// How the keys that are there are shared out among parts.
struct KeyParts {
  int64_t first, end, skipped;  // keys [first, end) but for one
  int64_t length;               // of a part
  int count;                    // of parts with keys, at least 1

  template <bool kStep, class T>
  static __device__ __forceinline__ KeyParts of(const FewQueries<T>& p, int64_t position,
                                                int granule) {
    KeyParts parts{p.first, p.first + p.keys, -1, 0, 0};
    if constexpr (kStep) {
      // In a ring that is full the oldest row makes room for the new one.
      parts.first = 0;
      parts.end = position < p.slots ? position : p.slots;
      parts.skipped = position < p.slots ? -1 : position % p.slots;
    }
    const int64_t keys = parts.end - parts.first;
    int64_t length = cuda::ceil_div(keys, p.splits);
    if (length < p.least_keys) length = p.least_keys;
    parts.length = cuda::ceil_div(length, granule) * granule;
    parts.count = keys == 0 ? 1 : static_cast<int>(cuda::ceil_div(keys, parts.length));
    return parts;
  }
};

/// 2^x, to the precision of results stored as T.
template <class T>
__device__ __forceinline__ float two_to(float x) {
  if constexpr (sizeof(T) == 2) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
  } else {
    return exp2f(x);
  }
}

/// What is subtracted from scores whose largest is `most`: a row without keys must not give inf -
/// inf.
__device__ __forceinline__ float shift_of(float most) {
  return most == -std::numeric_limits<float>::infinity() ? 0.0f : most;
}

__device__ __forceinline__ float log_of_sum(float most, float total) {
  constexpr float kLn2 = 0.693147180559945309f;
  return total == 0 ? std::numeric_limits<float>::infinity() : most * kLn2 + logf(total);
}

template <class T>
__device__ __forceinline__ T* output_at(const FewQueries<T>& p, int b, int kv_head, int row) {
  return const_cast<T*>(p.o.at(b, row / p.group(), kv_head * p.group() + row % p.group()));
}

/// Merges the parts of the rows of a unit, in order. A warp has 32 elements of a row at a time.
template <class T, int kRows>
__device__ __forceinline__ void merge_parts(const FewQueries<T>& p, const FewRowsUnit<kRows>& unit,
                                            int count) {
  constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
  constexpr int kAhead = 16;  // parts that are loaded together
  static_assert(kMostSplits == 64);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int chunks = (p.dim + 31) / 32;
  for (int item = static_cast<int>(threadIdx.x) / 32; item < unit.rows * chunks;
       item += kFewThreads / 32) {
    const int row = unit.first_row + item / chunks, e = item % chunks * 32 + lane;
    const int64_t at = p.statistics_at(unit.b, unit.kv_head, row);
    const float* const sums = p.sums + at * p.splits * p.dim + e;
    const auto load = [&](float(&values)[kAhead], int first) {
#pragma unroll
      for (int k = 0; k < kAhead; ++k) {
        values[k] = e < p.dim && first + k < count
                        ? __ldcg(sums + static_cast<int64_t>(first + k) * p.dim)
                        : 0.0f;
      }
    };
    float values[kAhead];
    load(values, 0);
    // Lane s has parts s and s + 32.
    const auto* const statistics = reinterpret_cast<const float2*>(p.statistics) + at * p.splits;
    const float2 none{kMinusInfinity, 0};
    const float2 low = lane < count ? __ldcg(statistics + lane) : none;
    const float2 high = lane + 32 < count ? __ldcg(statistics + lane + 32) : none;
    float most = fmaxf(low.x, high.x);
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2)
      most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, mask));
    const float shift = shift_of(most);
    const float low_factor = two_to<T>(low.x - shift), high_factor = two_to<T>(high.x - shift);
    const float total = cuda::sum_over<32>(low_factor * low.y + high_factor * high.y);
    float sum = 0;
    for (int first = 0; first < count; first += kAhead) {
      if (first > 0) load(values, first);
#pragma unroll
      for (int k = 0; k < kAhead; ++k) {
        const float factor =
            __shfl_sync(0xffffffffu, first < 32 ? low_factor : high_factor, (first + k) % 32);
        sum += factor * values[k];
      }
    }
    const float normaliser = total == 0 ? 0.0f : 1 / total;
    if (e < p.dim) output_at(p, unit.b, unit.kv_head, row)[e] = narrow<T>(sum * normaliser);
    if (e == 0 && p.lse != nullptr) p.lse[at] = log_of_sum(most, total);
  }
}

/// Turns a head by the angles of a position and rounds it as it would be stored. The pair (i, i +
/// dim / 2) of `from` goes to `to`.
template <class T>
__device__ __forceinline__ void turn_pair(const FewQueries<T>& p, int64_t position, const T* from,
                                          int i, float* to) {
  const int half = p.dim / 2;
  const float a = widen(cuda::load_fresh(from + i)), b = widen(cuda::load_fresh(from + i + half));
  if (p.table == nullptr) {
    to[i] = a;
    to[i + half] = b;
    return;
  }
  const int64_t row = position < p.table_rows ? position : p.table_rows - 1;
  const float cosine = p.table[row * p.dim + i], sine = p.table[row * p.dim + half + i];
  to[i] = widen(narrow<T>(a * cosine - b * sine));
  to[i + half] = widen(narrow<T>(b * cosine + a * sine));
}

template <int kRows>
inline constexpr int kFewResident = kRows == 1   ? 4
                                    : kRows == 4 ? 3
                                                 : 2;

/// Blocks (part, key head and tile of rows, sequence).
template <class T, int kLanes, int kRows, bool kStep>
__global__ void __launch_bounds__(kFewThreads, kFewResident<kRows>)
    few_queries_kernel(const FewQueries<T> p) {
  constexpr int kWidth = kPackWidth<T>;
  constexpr int kGroups = kFewThreads / kLanes;  // keys that a block meets at a time
  constexpr int kAhead = 4;                      // times that many are being loaded
  constexpr int kDim = kLanes * kWidth;          // dims, with the unused ones
  constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
  __shared__ float group_most[kGroups][kRows], group_total[kGroups][kRows];
  __shared__ float group_sums[kGroups][kRows][kDim];
  __shared__ float turned[kStep ? kRows : 1][kDim];  // queries
  __shared__ float fresh[2][kDim];                   // key and value of a step
  __shared__ bool is_last;

  const FewRowsUnit<kRows> unit(p, static_cast<int>(blockIdx.y), static_cast<int>(blockIdx.z));
  const int part = static_cast<int>(blockIdx.x);
  const int thread = static_cast<int>(threadIdx.x);
  const int group = thread / kLanes, element = thread % kLanes * kWidth;
  const bool has_elements = element < p.dim;

  cuda::let_next_kernel_start();
  // Written by the last kernel of the step before, which is done.
  const int64_t position =
      kStep ? __ldcg(reinterpret_cast<const long long*>(p.device_position)) : p.position;
  const KeyParts parts = KeyParts::of<kStep>(p, position, kGroups);
  const int64_t slot = kStep && part == 0 ? position % p.slots : 0;
  const int64_t begin = parts.first + part * parts.length;
  const int64_t end = begin + parts.length < parts.end ? begin + parts.length : parts.end;
  if (part >= parts.count) {
    cuda::wait_for_earlier_kernels();
    return;
  }

  // Rows of the cache that a step reads are those of earlier steps.
  uint4 keys[kAhead] = {}, values[kAhead] = {};
  const auto load = [&](const typename FewQueries<T>::Rows& rows, int64_t base, int u, uint4& to) {
    const int64_t key = base + u * kGroups + group;
    if (has_elements && key < end)
      to = cuda::load_once(rows.at(unit.b, key, unit.kv_head) + element);
  };
#pragma unroll
  for (int u = 0; u < kAhead; ++u) load(p.k, begin, u, keys[u]);
#pragma unroll
  for (int u = 0; u < kAhead; ++u) load(p.v, begin, u, values[u]);
  cuda::wait_for_earlier_kernels();

  float q[kRows][kWidth] = {};
  if constexpr (kStep) {
    const int half = p.dim / 2;
    const T* const projected = p.q.data + unit.b * p.q.batch_stride;
    for (int i = thread; i < unit.rows * half; i += kFewThreads) {
      const int r = i / half, head = unit.kv_head * p.group() + unit.first_row + r;
      turn_pair(p, position, projected + head * p.dim, i % half, turned[r]);
    }
    if (part == 0) {
      const T* const key = projected + (p.heads + unit.kv_head) * p.dim;
      const T* const value = projected + (p.heads + p.kv_heads + unit.kv_head) * p.dim;
      T* const key_to = const_cast<T*>(p.k.at(unit.b, slot, unit.kv_head));
      T* const value_to = const_cast<T*>(p.v.at(unit.b, slot, unit.kv_head));
      // By other threads than those that begin with the queries.
      for (int i = thread ^ (kFewThreads / 2); i < half; i += kFewThreads) {
        turn_pair(p, position, key, i, fresh[0]);
        fresh[1][i] = widen(cuda::load_fresh(value + i));
        fresh[1][i + half] = widen(cuda::load_fresh(value + i + half));
        if (unit.first_row == 0) {
          key_to[i] = narrow<T>(fresh[0][i]);
          key_to[i + half] = narrow<T>(fresh[0][i + half]);
          value_to[i] = narrow<T>(fresh[1][i]);
          value_to[i + half] = narrow<T>(fresh[1][i + half]);
        }
      }
    }
    __syncthreads();
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int w = 0; w < kWidth; ++w) {
        if (has_elements && r < unit.rows) q[r][w] = turned[r][element + w] * p.scale;
      }
    }
  } else {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (!has_elements || r >= unit.rows) continue;
      const int row = unit.first_row + r;
      widen_pack(cuda::load_fresh_pack(
                     p.q.at(unit.b, row / p.group(), unit.kv_head * p.group() + row % p.group()) +
                     element),
                 q[r]);
#pragma unroll
      for (int w = 0; w < kWidth; ++w) q[r][w] *= p.scale;
    }
  }

  float most[kRows], total[kRows] = {}, sums[kRows][kWidth] = {};
#pragma unroll
  for (int r = 0; r < kRows; ++r) most[r] = kMinusInfinity;

  const auto score = [&](const float(&key)[kWidth], int r) {
    float sum = 0;
#pragma unroll
    for (int w = 0; w < kWidth; ++w) sum += q[r][w] * key[w];
#pragma unroll
    for (int mask = kLanes / 2; mask > 0; mask /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, mask);
    return sum;
  };
  const auto is_seen = [&](int64_t key, int r) {
    if (key >= end) return false;
    if constexpr (kStep) {
      return key != parts.skipped;
    } else {
      const int64_t at = position + (unit.first_row + r) / p.group();
      return (!p.causal || key <= at) && (p.window == 0 || key > at - p.window);
    }
  };
  /// The row's largest score becomes `highest`.
  const auto raise = [&](int r, float highest) {
    const float shift = shift_of(highest);
    const float factor = two_to<T>(most[r] - shift);
    most[r] = highest;
    total[r] *= factor;
#pragma unroll
    for (int w = 0; w < kWidth; ++w) sums[r][w] *= factor;
    return shift;
  };

  for (int64_t base = begin; base < end; base += kAhead * kGroups) {
    float weights[kAhead][kRows];
#pragma unroll
    for (int u = 0; u < kAhead; ++u) {
      Pack<T, kWidth> pack;
      memcpy(&pack, &keys[u], sizeof pack);
      float key[kWidth];
      widen_pack(pack, key);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const float x = score(key, r);
        weights[u][r] = is_seen(base + u * kGroups + group, r) ? x : kMinusInfinity;
      }
    }
#pragma unroll
    for (int u = 0; u < kAhead; ++u) load(p.k, base + kAhead * kGroups, u, keys[u]);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      float highest = most[r];
#pragma unroll
      for (int u = 0; u < kAhead; ++u) highest = fmaxf(highest, weights[u][r]);
      const float shift = raise(r, highest);
#pragma unroll
      for (int u = 0; u < kAhead; ++u) {
        weights[u][r] = two_to<T>(weights[u][r] - shift);
        total[r] += weights[u][r];
      }
    }
#pragma unroll
    for (int u = 0; u < kAhead; ++u) {
      Pack<T, kWidth> pack;
      memcpy(&pack, &values[u], sizeof pack);
      float value[kWidth];
      widen_pack(pack, value);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
#pragma unroll
        for (int w = 0; w < kWidth; ++w) sums[r][w] += weights[u][r] * value[w];
      }
    }
#pragma unroll
    for (int u = 0; u < kAhead; ++u) load(p.v, base + kAhead * kGroups, u, values[u]);
  }

  if constexpr (kStep) {
    if (part == 0 && thread < 32) {  // all lanes of the warp, for the shuffles
      float key[kWidth] = {};
      if (has_elements) {
#pragma unroll
        for (int w = 0; w < kWidth; ++w) key[w] = fresh[0][element + w];
      }
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const float x = score(key, r);
        if (group != 0) continue;
        const float shift = raise(r, fmaxf(most[r], x));
        const float weight = two_to<T>(x - shift);
        total[r] += weight;
        if (!has_elements) continue;
#pragma unroll
        for (int w = 0; w < kWidth; ++w) sums[r][w] += weight * fresh[1][element + w];
      }
    }
  }

#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    if (element == 0) {
      group_most[group][r] = most[r];
      group_total[group][r] = total[r];
    }
#pragma unroll
    for (int w = 0; w < kWidth; ++w) group_sums[group][r][element + w] = sums[r][w];
  }
  __syncthreads();
  for (int i = thread; i < unit.rows * p.dim; i += kFewThreads) {
    const int r = i / p.dim, e = i % p.dim;
    float highest = kMinusInfinity;
#pragma unroll
    for (int g = 0; g < kGroups; ++g) highest = fmaxf(highest, group_most[g][r]);
    const float shift = shift_of(highest);
    float all = 0, sum = 0;
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      const float factor = two_to<T>(group_most[g][r] - shift);
      all += factor * group_total[g][r];
      sum += factor * group_sums[g][r][e];
    }
    const int64_t at = p.statistics_at(unit.b, unit.kv_head, unit.first_row + r);
    if (parts.count == 1) {
      const float normaliser = all == 0 ? 0.0f : 1 / all;
      output_at(p, unit.b, unit.kv_head, unit.first_row + r)[e] = narrow<T>(sum * normaliser);
      if (e == 0 && p.lse != nullptr) p.lse[at] = log_of_sum(highest, all);
    } else {
      p.sums[(at * p.splits + part) * p.dim + e] = sum;
      if (e == 0) {
        p.statistics[2 * (at * p.splits + part)] = highest;
        p.statistics[2 * (at * p.splits + part) + 1] = all;
      }
    }
  }
  if (parts.count == 1 || p.counters == nullptr) return;

  // Whoever is last merges the parts.
  __threadfence();
  __syncthreads();
  if (thread == 0) {
    is_last = atomicAdd(p.counters + unit.id, 1u) + 1 == static_cast<unsigned>(parts.count);
    if (is_last) p.counters[unit.id] = 0;
  }
  __syncthreads();
  if (!is_last) return;
  __threadfence();
  merge_parts<T, kRows>(p, unit, parts.count);
}

template <class T, int kRows>
__global__ void __launch_bounds__(kFewThreads)
    few_queries_merge_kernel(const FewQueries<T> p, int granule) {
  const FewRowsUnit<kRows> unit(p, static_cast<int>(blockIdx.y), static_cast<int>(blockIdx.z));
  const KeyParts parts = KeyParts::of<false>(p, p.position, granule);
  if (parts.count > 1) merge_parts<T, kRows>(p, unit, parts.count);
}

/// Query rows of a block, for a key head that has so many.
constexpr int few_rows_of_block(int64_t rows) {
  return rows == 1 ? 1 : rows <= 4 ? 4 : 8;
}

/// Lanes that share a key of `dim` elements.
template <class T>
constexpr int lanes_of_key(int64_t dim) {
  const int64_t lanes = dim / kPackWidth<T>;
  return lanes <= 8 ? 8 : lanes <= 16 ? 16 : 32;
}

/// Starts the kernels of a problem of `batch` sequences.
template <class T, bool kStep>
void launch_few_queries(const char* op, const FewQueries<T>& p, int64_t batch, bool settled,
                        Stream stream) {
  const int64_t rows = static_cast<int64_t>(p.queries) * (p.heads / p.kv_heads);
  const auto run = [&]<int kLanes, int kRows>() {
    const auto units = static_cast<unsigned>(p.kv_heads * cuda::ceil_div(rows, kRows));
    const auto splits = static_cast<unsigned>(p.splits), sequences = static_cast<unsigned>(batch);
    cuda::launch_overlapped(op, stream, {{splits, units, sequences}, kFewThreads}, settled,
                            few_queries_kernel<T, kLanes, kRows, kStep>, p);
    if (!kStep && splits > 1) {
      cuda::launch(op, stream, {{1, units, sequences}, kFewThreads},
                   few_queries_merge_kernel<T, kRows>, p, kFewThreads / kLanes);
    }
  };
  const auto run_rows = [&]<int kLanes>() {
    switch (few_rows_of_block(rows)) {
      case 1:
        return run.template operator()<kLanes, 1>();
      case 4:
        return run.template operator()<kLanes, 4>();
      default:
        return run.template operator()<kLanes, 8>();
    }
  };
  switch (lanes_of_key<T>(p.dim)) {
    case 8:
      return run_rows.template operator()<8>();
    case 16:
      return run_rows.template operator()<16>();
    default:
      return run_rows.template operator()<32>();
  }
}

template <class T>
typename FewQueries<T>::Rows few_rows_view(const HeadsView& view) {
  return {static_cast<const T*>(view.data), view.batch_stride, view.row_stride, view.head_stride};
}

template <class T>
void run_decode_step(const DecodeStepParams& params, Stream stream) {
  constexpr double kLog2e = 1.4426950408889634074;
  const auto heads = static_cast<int>(params.heads);
  const FewQueries<T> p{
      .q = {static_cast<const T*>(params.packed), params.packed_stride, 0, params.dim},
      .k = few_rows_view<T>(params.keys),
      .v = few_rows_view<T>(params.values),
      .o = {static_cast<const T*>(params.o), params.heads * params.dim, 0, params.dim},
      .lse = nullptr,
      .queries = 1,
      .heads = heads,
      .kv_heads = static_cast<int>(params.kv_heads),
      .dim = static_cast<int>(params.dim),
      .scale = static_cast<float>(params.scale * kLog2e),
      .splits = params.splits,
      .least_keys = kLeastKeysOfPart,
      .sums = params.partials,
      .statistics = params.partials + params.batch * params.heads * params.splits * params.dim,
      .counters = params.counters,
      .first = 0,
      .keys = 0,
      .causal = false,
      .window = 0,
      .position = 0,
      .device_position = params.position,
      .table = params.table,
      .table_rows = params.table_rows,
      .slots = params.slots};
  launch_few_queries<T, /*kStep=*/true>("decode_attention", p, params.batch, params.settled,
                                        stream);
}

template <class T>
void run_few_queries(const FlashAttentionParams& params, const FewQueriesPlan& plan,
                     Stream stream) {
  constexpr double kLog2e = 1.4426950408889634074;
  const auto range = params.visible_keys(0, params.queries);
  const FewQueries<T> p{.q = few_rows_view<T>(params.q),
                        .k = few_rows_view<T>(params.k),
                        .v = few_rows_view<T>(params.v),
                        .o = few_rows_view<T>(params.o),
                        .lse = static_cast<float*>(params.lse),
                        .queries = static_cast<int>(params.queries),
                        .heads = static_cast<int>(params.heads),
                        .kv_heads = static_cast<int>(params.kv_heads),
                        .dim = static_cast<int>(params.dim),
                        .scale = static_cast<float>(params.scale * kLog2e),
                        .splits = plan.splits,
                        .least_keys = kLeastKeysOfPart,
                        .sums = plan.sums,
                        .statistics = plan.statistics,
                        .counters = nullptr,
                        .first = range.empty() ? 0 : range.first,
                        .keys = range.empty() ? 0 : range.last - range.first,
                        .causal = params.causal,
                        .window = params.window,
                        .position = params.position,
                        .device_position = nullptr,
                        .table = nullptr,
                        .table_rows = 0,
                        .slots = 1};
  launch_few_queries<T, /*kStep=*/false>("flash_attention", p, params.batch, false, stream);
}

}  // namespace weft::attention::gpu
