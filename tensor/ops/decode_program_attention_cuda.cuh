#pragma once

// The attention of decode_program_cuda.cuh: each block has a part of the keys of a head, which
// every group of lanes takes in turn, keeping the softmax of those it has met. Groups, then warps,
// then parts are merged in their order.
#include "ops/decode_program_cuda.cuh"

namespace weft::cuda {

/// 2^x, to the precision of the half types.
__device__ __forceinline__ float half_two_to(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// What is subtracted from scores whose largest is `most`: a row without keys must not give inf -
/// inf.
__device__ __forceinline__ float score_shift(float most) {
  return most == kMinusInfinity<float> ? 0.0f : most;
}

/// Sums over the keys that were met, of weights and of weighted values, for one query.
template <int kWidth>
struct KeySums {
  float most = kMinusInfinity<float>;  // score, in units of log 2
  float total = 0;
  float values[kWidth] = {};

  /// The largest score becomes `highest`; gives what to subtract from scores.
  __device__ __forceinline__ float raise(float highest) {
    const float shift = score_shift(highest);
    const float factor = half_two_to(most - shift);
    most = highest;
    total *= factor;
#pragma unroll
    for (int w = 0; w < kWidth; ++w) values[w] *= factor;
    return shift;
  }
  __device__ __forceinline__ void add(float weight, const float (&value)[kWidth]) {
    total += weight;
#pragma unroll
    for (int w = 0; w < kWidth; ++w) values[w] += weight * value[w];
  }
  /// Adds what lanes `mask` apart have.
  __device__ __forceinline__ void merge_lanes(int mask) {
    const float other_most = __shfl_xor_sync(0xffffffffu, most, mask);
    const float shift = score_shift(fmaxf(most, other_most));
    const float factor = half_two_to(most - shift), other_factor = half_two_to(other_most - shift);
    most = fmaxf(most, other_most);
    total = factor * total + other_factor * __shfl_xor_sync(0xffffffffu, total, mask);
#pragma unroll
    for (int w = 0; w < kWidth; ++w)
      values[w] = factor * values[w] + other_factor * __shfl_xor_sync(0xffffffffu, values[w], mask);
  }
};

template <class T, int kRows, int kQueries>
template <int kLanes>
__device__ __forceinline__ void Computation<T, kRows, kQueries>::attend(
    const DecodeAttentionPart& step, int s) {
  constexpr int kWidth = 8;
  constexpr int kGroups = kProgramThreads / kLanes;  // keys that a block meets at a time
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const int dim = step.dim, half = dim / 2;
  const int group = thread / kLanes, element = thread % kLanes * kWidth;
  const bool has_elements = element < dim;
  float* const turned = input;                   // [kQueries][dim]
  float* const fresh = turned + kQueries * dim;  // [2][dim], the new key and value
  float* const warp_sums = fresh + 2 * dim;      // [warps][kQueries][dim]
  float* const warp_statistics = warp_sums + kDecodeProgramWarps * kQueries * dim;  // and [2]

  const CachedKeys keys(step, position);
  const MarkedValue* const packed = output_of(s - 1);
  const uint32_t packed_mark = mark_of(s - 1);
  const int64_t angles = position < step.table_rows ? position : step.table_rows - 1;
  const float* const table = step.table == nullptr ? nullptr : step.table + angles * dim;
  const int units = AttentionUnit::count(step, p.batch, kQueries);
  for (int u = static_cast<int>(blockIdx.x); u < units; u += static_cast<int>(gridDim.x)) {
    const AttentionUnit unit(step, u, kQueries);
    if (unit.part >= keys.parts) continue;
    const MarkedValue* const projected = packed + unit.b * p.exchange_stride;
    // Pair i of a head of the projection, turned by the position's angles and rounded as it is
    // stored.
    const auto turned_pair = [&](int head, int i) -> float2 {
      const MarkedValue* const from = projected + head * dim + i;
      const MarkedValue first = peek_marked(from), second = peek_marked(from + half);
      float cosine = 1, sine = 0;
      if (table != nullptr) cosine = table[i], sine = table[half + i];
      const float a = await_marked(from, first, packed_mark);
      const float b = await_marked(from + half, second, packed_mark);
      if (table == nullptr) return {a, b};
      return {rounded(a * cosine - b * sine), rounded(b * cosine + a * sine)};
    };
    sync_computing();  // all have done with this memory
    for (int i = thread; i < unit.heads * half; i += kProgramThreads) {
      const int r = i / half, pair = i % half;
      const float2 query = turned_pair(unit.first_head + r, pair);
      turned[r * dim + pair] = query.x;
      turned[r * dim + pair + half] = query.y;
    }
    if (unit.part == 0) {
      const int slot = static_cast<int>(position % step.slots);
      const int64_t head = static_cast<int64_t>(unit.b) * step.kv_heads + unit.kv_head;
      const int64_t to = (head * step.slots + slot) * dim;
      // By other threads than those that begin with the queries.
      for (int i = thread ^ (kProgramThreads / 2); i < half; i += kProgramThreads) {
        const float2 key = turned_pair(step.heads + unit.kv_head, i);
        const MarkedValue* const from =
            projected + (step.heads + step.kv_heads + unit.kv_head) * dim + i;
        const float first = await_marked(from, peek_marked(from), packed_mark);
        const float second = await_marked(from + half, peek_marked(from + half), packed_mark);
        fresh[i] = key.x;
        fresh[i + half] = key.y;
        fresh[dim + i] = first;
        fresh[dim + i + half] = second;
        // Heads of queries that share the key write the same; read in later steps.
        T* const key_row = static_cast<T*>(step.keys) + to;
        T* const value_row = static_cast<T*>(step.values) + to;
        key_row[i] = narrow<T>(key.x);
        key_row[i + half] = narrow<T>(key.y);
        value_row[i] = narrow<T>(first);
        value_row[i + half] = narrow<T>(second);
      }
    }
    sync_computing();
    float q[kQueries][kWidth] = {};
#pragma unroll
    for (int r = 0; r < kQueries; ++r) {
      if (!has_elements || r >= unit.heads) continue;
#pragma unroll
      for (int w = 0; w < kWidth; ++w) q[r][w] = turned[r * dim + element + w] * step.scale;
    }
    KeySums<kWidth> sums[kQueries];
    const auto score = [&](const float(&key)[kWidth], int r) {
      float sum = 0;
#pragma unroll
      for (int w = 0; w < kWidth; ++w) sum += q[r][w] * key[w];
#pragma unroll
      for (int mask = kLanes / 2; mask > 0; mask /= 2)
        sum += __shfl_xor_sync(0xffffffffu, sum, mask);
      return sum;
    };

    const int begin = unit.part * keys.length, end = min(begin + keys.length, keys.end);
    for (int base = begin; base < end; base += step.keys_per_slot) {
      const auto* const cached = reinterpret_cast<const T*>(ring.wait_for(0));
      const T* const cached_values = cached + step.keys_per_slot * dim;
      constexpr int kTogether = kQueries == 1 ? 2 : 1;  // keys of a group
      const int here = min(step.keys_per_slot, end - base);
      for (int first = 0; first < here; first += kTogether * kGroups) {
        float weights[kTogether][kQueries];
        bool seen[kTogether];
#pragma unroll
        for (int k = 0; k < kTogether; ++k) {
          const int at = first + k * kGroups + group;
          seen[k] = at < here && base + at != keys.skipped;
          float key[kWidth] = {};
          if (has_elements && at < here)
            widen_pack(load_pack<kWidth>(cached + at * dim + element), key);
#pragma unroll
          for (int r = 0; r < kQueries; ++r) {
            const float x = score(key, r);
            weights[k][r] = seen[k] ? x : kMinusInfinity<float>;
          }
        }
#pragma unroll
        for (int r = 0; r < kQueries; ++r) {
          float highest = sums[r].most;
#pragma unroll
          for (int k = 0; k < kTogether; ++k) highest = fmaxf(highest, weights[k][r]);
          const float shift = sums[r].raise(highest);
#pragma unroll
          for (int k = 0; k < kTogether; ++k) weights[k][r] = half_two_to(weights[k][r] - shift);
        }
#pragma unroll
        for (int k = 0; k < kTogether; ++k) {
          const int at = first + k * kGroups + group;
          float value[kWidth] = {};
          if (has_elements && seen[k])
            widen_pack(load_pack<kWidth>(cached_values + at * dim + element), value);
#pragma unroll
          for (int r = 0; r < kQueries; ++r) sums[r].add(weights[k][r], value);
        }
      }
      ring.release(1);
    }

    if (unit.part == 0 && warp == 0) {  // all lanes, for the shuffles
      float key[kWidth] = {}, value[kWidth] = {};
      if (has_elements) {
#pragma unroll
        for (int w = 0; w < kWidth; ++w) {
          key[w] = fresh[element + w];
          value[w] = fresh[dim + element + w];
        }
      }
#pragma unroll
      for (int r = 0; r < kQueries; ++r) {
        const float x = score(key, r);
        if (group != 0) continue;
        const float shift = sums[r].raise(fmaxf(sums[r].most, x));
        sums[r].add(half_two_to(x - shift), value);
      }
    }
    __syncwarp();
#pragma unroll
    for (int r = 0; r < kQueries; ++r) {
#pragma unroll
      for (int mask = kLanes; mask < 32; mask *= 2) sums[r].merge_lanes(mask);
      if (lane >= kLanes) continue;
      const int row = warp * kQueries + r;
      if (lane == 0) {
        warp_statistics[2 * row] = sums[r].most;
        warp_statistics[2 * row + 1] = sums[r].total;
      }
      if (!has_elements) continue;
#pragma unroll
      for (int w = 0; w < kWidth; ++w) warp_sums[row * dim + element + w] = sums[r].values[w];
    }
    sync_computing();
    for (int i = thread; i < unit.heads * dim; i += kProgramThreads) {
      const int r = i / dim, e = i % dim;
      float highest = kMinusInfinity<float>;
#pragma unroll
      for (int w = 0; w < kDecodeProgramWarps; ++w)
        highest = fmaxf(highest, warp_statistics[2 * (w * kQueries + r)]);
      const float shift = score_shift(highest);
      float total = 0, sum = 0;
#pragma unroll
      for (int w = 0; w < kDecodeProgramWarps; ++w) {
        const int row = w * kQueries + r;
        const float factor = half_two_to(warp_statistics[2 * row] - shift);
        total += factor * warp_statistics[2 * row + 1];
        sum += factor * warp_sums[row * dim + e];
      }
      const int head = unit.first_head + r;
      if (keys.parts == 1) {
        store_marked(output_of(s) + unit.b * p.exchange_stride + head * dim + e,
                     rounded(sum / total), mark_of(s));
      } else {
        const int64_t row = static_cast<int64_t>(unit.b) * step.heads + head;
        MarkedValue* const to = p.partials + (row * step.splits + unit.part) * (dim + 2);
        store_marked(to + e, sum, part_mark_of(s));
        if (e < 2) store_marked(to + dim + e, e == 0 ? highest : total, part_mark_of(s));
      }
    }
  }
  if (keys.parts > 1) merge_parts(step, s);
}

/// A thread has an element of the output.
template <class T, int kRows, int kQueries>
__device__ __forceinline__ void Computation<T, kRows, kQueries>::merge_parts(
    const DecodeAttentionPart& step, int s) {
  constexpr int kAhead = 4;
  const CachedKeys keys(step, position);
  const uint32_t mark = part_mark_of(s);
  const int stride = step.dim + 2, row_length = step.heads * step.dim;
  const BlockShare share(p.batch * row_length);
  for (int i = share.first + static_cast<int>(threadIdx.x); i < share.last; i += kProgramThreads) {
    const int row = i / step.dim, e = i % step.dim;
    const MarkedValue* const parts = p.partials + static_cast<int64_t>(row) * step.splits * stride;
    float most = kMinusInfinity<float>, total = 0, sum = 0;
    for (int first = 0; first < keys.parts; first += kAhead) {
      MarkedValue found[kAhead][3];
#pragma unroll
      for (int k = 0; k < kAhead; ++k) {
        if (first + k >= keys.parts) break;
        const MarkedValue* const part = parts + (first + k) * stride;
        found[k][0] = peek_marked(part + step.dim);
        found[k][1] = peek_marked(part + step.dim + 1);
        found[k][2] = peek_marked(part + e);
      }
#pragma unroll
      for (int k = 0; k < kAhead; ++k) {
        if (first + k >= keys.parts) break;
        const MarkedValue* const part = parts + (first + k) * stride;
        const float part_most = await_marked(part + step.dim, found[k][0], mark);
        const float part_total = await_marked(part + step.dim + 1, found[k][1], mark);
        const float part_sum = await_marked(part + e, found[k][2], mark);
        const float highest = fmaxf(most, part_most), shift = score_shift(highest);
        const float factor = half_two_to(most - shift),
                    part_factor = half_two_to(part_most - shift);
        most = highest;
        total = factor * total + part_factor * part_total;
        sum = factor * sum + part_factor * part_sum;
      }
    }
    store_marked(output_of(s) + i / row_length * p.exchange_stride + i % row_length,
                 rounded(sum / total), mark_of(s));
  }
}

}  // namespace weft::cuda
