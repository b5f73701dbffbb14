#pragma once

// The attention of decode_program_cuda.cuh: each block has a part of the keys of a head, which
// groups of lanes take in turn, keeping the softmax of those they have met. Where several query
// heads share the keys, each has warps of its own. Groups, then warps, then parts are merged in
// their order.
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
  constexpr int kWarps = kDecodeProgramWarps / kQueries;  // of a query head
  constexpr int kGroups = 32 / kLanes * kWarps;           // that take its keys
  // A piece has two keys for every group of the block. A group takes kKeys at a time, out of one
  // piece of the ring or two.
  constexpr int kKeysOfPiece = 2 * kQueries, kKeys = 4;
  constexpr int kPieces = kKeysOfPiece < kKeys ? kKeys / kKeysOfPiece : 1;
  const int thread = this_thread(), warp = thread / 32, lane = thread % 32;
  const int dim = step.dim, half = dim / 2;
  const int query = warp / kWarps, group = thread / kLanes % kGroups;
  const int element = thread % kLanes * kWidth;
  const bool has_elements = element < dim;
  float* const turned = attention;               // [kQueries][dim]
  float* const fresh = turned + kQueries * dim;  // [2][dim], the new key and value
  float* const warp_sums = fresh + 2 * dim;      // [warps][dim]
  float* const warp_statistics = warp_sums + kDecodeProgramWarps * dim;  // and [2]

  const CachedKeys keys(step, position);
  const uint32_t packed_mark = mark_of(s - 1);
  const int64_t angles = position < step.table_rows ? position : step.table_rows - 1;
  const float* const table = step.table == nullptr ? nullptr : step.table + angles * dim;
  const int slot = static_cast<int>(position < step.slots ? position : position % step.slots);
  const int units = AttentionUnit::count(step, p.batch, kQueries);
  for (int u = static_cast<int>(blockIdx.x); u < units; u += static_cast<int>(gridDim.x)) {
    const AttentionUnit unit(step, u, kQueries);
    if (unit.part >= keys.parts) continue;
    const Marked* const projected = output_of(s - 1) + unit.b * p.exchange_stride;
    if (u != static_cast<int>(blockIdx.x)) sync_computing();  // all have done with the unit before
    // Two pairs of a head of the projection, elements i, i + 1 and those half a head behind, turned
    // by the position's angles and rounded as they are stored.
    const auto read_pairs = [&](int head, int i, bool turns, float2& low, float2& high) {
      const Marked* const from = projected + (head * dim + i) / 2;
      float2 cosine{1, 1}, sine{0, 0};
      if (turns) {
        cosine = *reinterpret_cast<const float2*>(table + i);
        sine = *reinterpret_cast<const float2*>(table + half + i);
      }
      const uint2 found = await_marked(from, from + half / 2, packed_mark);
      low = unpack_two<T>(found.x);
      high = unpack_two<T>(found.y);
      if (!turns) return;
      const float2 a = low, b = high;
      low = {rounded(a.x * cosine.x - b.x * sine.x), rounded(a.y * cosine.y - b.y * sine.y)};
      high = {rounded(b.x * cosine.x + a.x * sine.x), rounded(b.y * cosine.y + a.y * sine.y)};
    };
    const auto put = [&](float* to, int i, const float2& low, const float2& high) {
      *reinterpret_cast<float2*>(to + i) = low;
      *reinterpret_cast<float2*>(to + half + i) = high;
    };
    const int quarter = half / 2;
    for (int item = thread; item < unit.heads * quarter; item += kProgramThreads) {
      const int r = item / quarter, i = 2 * (item % quarter);
      float2 low, high;
      read_pairs(unit.first_head + r, i, table != nullptr, low, high);
      put(turned + r * dim, i, low, high);
    }
    if (unit.part == 0) {
      const int64_t head = static_cast<int64_t>(unit.b) * step.kv_heads + unit.kv_head;
      const int64_t row = (head * step.slots + slot) * dim;
      // By other threads than those that begin with the queries, keys and values at once.
      for (int item = thread ^ (kProgramThreads / 2); item < 2 * quarter; item += kProgramThreads) {
        const bool is_value = item >= quarter;
        const int i = 2 * (is_value ? item - quarter : item);
        float2 low, high;
        read_pairs(step.heads + (is_value ? step.kv_heads : 0) + unit.kv_head, i,
                   !is_value && table != nullptr, low, high);
        put(fresh + (is_value ? dim : 0), i, low, high);
        // Blocks whose query heads share the key write the same; it is read in later steps.
        T* const to = static_cast<T*>(is_value ? step.values : step.keys) + row + i;
        *reinterpret_cast<uint32_t*>(to) = pack_two<T>(low.x, low.y);
        *reinterpret_cast<uint32_t*>(to + half) = pack_two<T>(high.x, high.y);
      }
    }
    sync_computing();
    float q[kWidth] = {};
    if (has_elements && query < unit.heads) {
#pragma unroll
      for (int w = 0; w < kWidth; ++w) q[w] = turned[query * dim + element + w] * step.scale;
    }
    KeySums<kWidth> sums;
    const auto widened = [](const uint4& words, float(&values)[kWidth]) {
      const uint32_t pairs[kWidth / 2] = {words.x, words.y, words.z, words.w};
#pragma unroll
      for (int w = 0; w < kWidth / 2; ++w) {
        const float2 two = unpack_two<T>(pairs[w]);
        values[2 * w] = two.x;
        values[2 * w + 1] = two.y;
      }
    };
    const auto score = [&](const float(&key)[kWidth]) {
      float sum = 0;
#pragma unroll
      for (int w = 0; w < kWidth; ++w) sum += q[w] * key[w];
#pragma unroll
      for (int mask = kLanes / 2; mask > 0; mask /= 2)
        sum += __shfl_xor_sync(0xffffffffu, sum, mask);
      return sum;
    };

    const int begin = unit.part * keys.length, end = min(begin + keys.length, keys.end);
    const int piece_keys = step.keys_per_piece;
    for (int base = begin; base < end; base += kPieces * piece_keys) {
      const int pieces = min((end - base + piece_keys - 1) / piece_keys, kPieces);
#pragma unroll 1
      for (int round = 0; round < kKeysOfPiece * kPieces / kKeys; ++round) {
        uint4 key_words[kKeys], value_words[kKeys];
        bool seen[kKeys];
#pragma unroll
        for (int k = 0; k < kKeys; ++k) {
          const int piece = k / kKeysOfPiece;
          const auto* const cached =
              reinterpret_cast<const T*>(ring.wait_for(min(piece, pieces - 1)));
          const int at = (round * kKeys + k % kKeysOfPiece) * kGroups + group;
          const int key = base + piece * piece_keys + at;
          seen[k] = key < end && key != keys.skipped;
          // Others take the piece's first key, which is there, with weight zero.
          const T* const row = cached + (seen[k] ? at : 0) * dim + (has_elements ? element : 0);
          key_words[k] = *reinterpret_cast<const uint4*>(row);
          value_words[k] = *reinterpret_cast<const uint4*>(row + piece_keys * dim);
        }
        float weights[kKeys];
        float highest = sums.most;
#pragma unroll
        for (int k = 0; k < kKeys; ++k) {
          float key[kWidth];
          widened(key_words[k], key);
          const float x = score(key);
          weights[k] = seen[k] ? x : kMinusInfinity<float>;
          highest = fmaxf(highest, weights[k]);
        }
        const float shift = sums.raise(highest);
#pragma unroll
        for (int k = 0; k < kKeys; ++k) {
          float value[kWidth];
          widened(value_words[k], value);
          sums.add(half_two_to(weights[k] - shift), value);
        }
      }
      ring.release(pieces);
    }

    if (unit.part == 0 && warp % kWarps == 0) {  // all lanes, for the shuffles
      float key[kWidth] = {}, value[kWidth] = {};
      if (has_elements) {
#pragma unroll
        for (int w = 0; w < kWidth; ++w) {
          key[w] = fresh[element + w];
          value[w] = fresh[dim + element + w];
        }
      }
      const float x = score(key);
      if (group == 0) {
        const float shift = sums.raise(fmaxf(sums.most, x));
        sums.add(half_two_to(x - shift), value);
      }
    }
    __syncwarp();
#pragma unroll
    for (int mask = kLanes; mask < 32; mask *= 2) sums.merge_lanes(mask);
    if (lane == 0) {
      warp_statistics[2 * warp] = sums.most;
      warp_statistics[2 * warp + 1] = sums.total;
    }
    if (lane < kLanes && has_elements) {
#pragma unroll
      for (int w = 0; w < kWidth; ++w) warp_sums[warp * dim + element + w] = sums.values[w];
    }
    sync_computing();
    // A thread has two elements.
    for (int item = thread; item < unit.heads * half; item += kProgramThreads) {
      const int r = item / half, e = 2 * (item % half);
      float mosts[kWarps], highest = kMinusInfinity<float>;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) {
        mosts[w] = warp_statistics[2 * (r * kWarps + w)];
        highest = fmaxf(highest, mosts[w]);
      }
      const float shift = score_shift(highest);
      float total = 0;
      float2 sum{0, 0};
#pragma unroll
      for (int w = 0; w < kWarps; ++w) {
        const int of = r * kWarps + w;
        const float factor = half_two_to(mosts[w] - shift);
        const auto part = *reinterpret_cast<const float2*>(warp_sums + of * dim + e);
        total += factor * warp_statistics[2 * of + 1];
        sum.x += factor * part.x;
        sum.y += factor * part.y;
      }
      const int head = unit.first_head + r;
      if (keys.parts == 1) {
        const uint32_t bits = pack_two<T>(sum.x / total, sum.y / total);
        for (int copy = 0; copy < kDecodeCopies; ++copy) {
          store_marked(output_of(s, copy) + unit.b * p.exchange_stride + (head * dim + e) / 2, bits,
                       mark_of(s));
        }
      } else {
        const int64_t row = static_cast<int64_t>(unit.b) * step.heads + head;
        Marked* const to = p.partials + (row * step.splits + unit.part) * (dim + 2);
        const uint32_t mark = part_mark_of(s);
        store_marked(to + e, __float_as_uint(sum.x), mark);
        store_marked(to + e + 1, __float_as_uint(sum.y), mark);
        if (e == 0) {
          store_marked(to + dim, __float_as_uint(highest), mark);
          store_marked(to + dim + 1, __float_as_uint(total), mark);
        }
      }
    }
  }
  if (keys.parts > 1) merge_parts(step, keys, s);
}

/// Eight lanes have two elements of the output, each every eighth part.
template <class T, int kRows, int kQueries>
__device__ __forceinline__ void Computation<T, kRows, kQueries>::merge_parts(
    const DecodeAttentionPart& step, const CachedKeys& keys, int s) {
  constexpr int kMergers = 8, kAtOnce = 2 * kProgramThreads / kMergers;  // elements
  const uint32_t mark = part_mark_of(s);
  const int stride = step.dim + 2, row_length = step.heads * step.dim;
  const BlockShare share = shares[s];
  const int merger = static_cast<int>(threadIdx.x) % kMergers;
  const int own_first = share.first + static_cast<int>(threadIdx.x) / kMergers * 2;
  // By whole warps, for the shuffles.
  const int warp_first = share.first + static_cast<int>(threadIdx.x) / 32 * (32 / kMergers) * 2;
  for (int skipped = 0; warp_first + skipped < share.last; skipped += kAtOnce) {
    const int i = own_first + skipped;
    const bool is_own = i < share.last;
    const int row = i / step.dim, e = i % step.dim;
    const Marked* const parts_of_row =
        p.partials + static_cast<int64_t>(row) * step.splits * stride;
    float most = kMinusInfinity<float>, total = 0;
    float2 sum{0, 0};
    for (int part = merger; is_own && part < keys.parts; part += kMergers) {
      const Marked* const from = parts_of_row + part * stride;
      const Marked* const places[2] = {from + step.dim, from + e};
      const bool wanted[2] = {true, true};
      MarkedTwo found[2];
      await_marked(places, wanted, found, mark);
      const uint2 found_statistics = bits_of(found[0]), found_values = bits_of(found[1]);
      const float part_most = __uint_as_float(found_statistics.x);
      const float highest = fmaxf(most, part_most), shift = score_shift(highest);
      const float factor = half_two_to(most - shift), part_factor = half_two_to(part_most - shift);
      most = highest;
      total = factor * total + part_factor * __uint_as_float(found_statistics.y);
      sum.x = factor * sum.x + part_factor * __uint_as_float(found_values.x);
      sum.y = factor * sum.y + part_factor * __uint_as_float(found_values.y);
    }
    float highest = most;
#pragma unroll
    for (int mask = kMergers / 2; mask > 0; mask /= 2)
      highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, mask));
    const float factor = half_two_to(most - score_shift(highest));
    total *= factor;
    sum.x *= factor;
    sum.y *= factor;
#pragma unroll
    for (int mask = kMergers / 2; mask > 0; mask /= 2) {
      total += __shfl_xor_sync(0xffffffffu, total, mask);
      sum.x += __shfl_xor_sync(0xffffffffu, sum.x, mask);
      sum.y += __shfl_xor_sync(0xffffffffu, sum.y, mask);
    }
    static_assert(kDecodeCopies <= kMergers);
    if (is_own && merger < kDecodeCopies) {
      store_marked(output_of(s, merger) + i / row_length * p.exchange_stride + i % row_length / 2,
                   pack_two<T>(sum.x / total, sum.y / total), mark_of(s));
    }
  }
}

}  // namespace weft::cuda
