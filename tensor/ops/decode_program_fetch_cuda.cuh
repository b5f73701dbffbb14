#pragma once

// How a block of decode_program_cuda.cuh gets what it reads: its share of weights and of cached
// keys and values, and the ring of pieces of shared memory through which they come.
#include "cuda/bulk_copy.cuh"
#include "ops/decode_program_cuda.h"

namespace weft::cuda {

/// What of a step's output is this block's: rows of a product, elements where parts of attention
/// are merged. Begins with an even one.
struct BlockShare {
  int first, last;
  static __device__ __forceinline__ BlockShare of(int count) {
    const int64_t pairs = (count + 1) / 2;
    const auto bound = [&](unsigned block) {
      return static_cast<int>(2 * (pairs * block / gridDim.x));
    };
    return {bound(blockIdx.x), min(bound(blockIdx.x + 1), count)};
  }
};

/// The pieces of shared memory that copies fill in turn.
struct Ring {
  TransferBarrier* full;   // [pieces]
  TransferBarrier* empty;  // [pieces]
  unsigned char* memory;
  int pieces, piece_bytes;
  int at = 0;           // the next piece
  unsigned parity = 0;  // of the round that it is in

  __device__ __forceinline__ void advance(int count) {
    at += count;
    if (at >= pieces) {
      at -= pieces;
      parity ^= 1;
    }
  }
  /// The piece `ahead` behind the next one, at most a round, when it is filled.
  __device__ __forceinline__ const unsigned char* wait_for(int ahead) {
    int piece = at + ahead;
    unsigned of = parity;
    if (piece >= pieces) {
      piece -= pieces;
      of ^= 1;
    }
    wait(full[piece], of);
    return memory + piece * piece_bytes;
  }
  /// This warp has done with the next `count` pieces, all of which it has waited for.
  __device__ __forceinline__ void release(int count) {
    __syncwarp();
    const int lane = static_cast<int>(threadIdx.x) % 32;
    if (lane < count) {
      const int piece = at + lane;
      arrive(empty[piece < pieces ? piece : piece - pieces]);
    }
    advance(count);
  }
};

/// The keys that one block meets with some query heads.
struct AttentionUnit {
  int part, b, kv_head, first_head, heads;  // query heads

  __device__ __forceinline__ AttentionUnit(const DecodeAttentionPart& p, int unit, int query_rows) {
    const int group = p.heads / p.kv_heads;
    const int tiles = (group + query_rows - 1) / query_rows;
    part = unit % p.splits;
    unit /= p.splits;
    kv_head = unit % p.kv_heads;
    unit /= p.kv_heads;
    const int tile = unit % tiles;
    b = unit / tiles;
    first_head = kv_head * group + tile * query_rows;
    heads = min(query_rows, group - tile * query_rows);
  }
  static __device__ __forceinline__ int count(const DecodeAttentionPart& p, int batch,
                                              int query_rows) {
    const int group = p.heads / p.kv_heads;
    return batch * p.kv_heads * ((group + query_rows - 1) / query_rows) * p.splits;
  }
};

/// How the cached keys are shared out among parts.
struct CachedKeys {
  int end, skipped;  // keys [0, end) but for one
  int length;        // of a part
  int parts;         // with keys, at least 1

  __device__ __forceinline__ CachedKeys(const DecodeAttentionPart& p, int64_t position) {
    constexpr int kGranule = 8, kLeast = 64;
    // In a ring that is full the oldest row makes room for the new one.
    end = position < p.slots ? static_cast<int>(position) : p.slots;
    skipped = position < p.slots ? -1 : static_cast<int>(position % p.slots);
    length = max((end + p.splits - 1) / p.splits, kLeast);
    length = (length + kGranule - 1) / kGranule * kGranule;
    parts = end == 0 ? 1 : (end + length - 1) / length;
  }
};

/// Fills the ring; one warp. It asks for no more than memory can answer at once: what is asked for
/// beyond that waits before the second-level cache, and whatever blocks hand to each other waits
/// behind it, many times as long as it takes by itself.
template <class T, int kQueries>
__device__ __forceinline__ void fetch_all(const DecodeProgramParams& p,
                                          const DecodeProgramStep* steps, const BlockShare* shares,
                                          Ring ring, int64_t position) {
  const uint64_t policy = read_once_policy();
  const int lane = static_cast<int>(threadIdx.x) % 32;
  Ring landed = ring;  // kDecodeInFlight behind
  int begun = 0;
  ring.parity = 1;  // pieces are empty to begin with
  const auto begin_piece = [&](int bytes) {
    if (++begun > kDecodeInFlight) {
      wait(landed.full[landed.at], landed.parity);
      landed.advance(1);
    }
    wait(ring.empty[ring.at], ring.parity);
    if (lane == 0) arrive_expecting(ring.full[ring.at], static_cast<unsigned>(bytes));
    __syncwarp();
    return ring.memory + ring.at * ring.piece_bytes;
  };
  const auto copy = [&](unsigned char* to, const T* from, int bytes) {
    copy_bulk(to, from, static_cast<unsigned>(bytes), ring.full[ring.at], policy);
  };
  constexpr int kBytes = static_cast<int>(sizeof(T));
  for (int s = 0; s < p.step_count; ++s) {
    if (steps[s].is_product) {
      const DecodeProductStep& step = steps[s].product;
      const BlockShare share = shares[s];
      const int weights = step.up != nullptr ? 2 : 1;
      const int pass_rows = kDecodeTileRows * (weights == 2 ? kDecodeGatedTiles : kDecodeTiles);
      for (int pass = share.first; pass < share.last; pass += pass_rows) {
        const int pass_end = min(pass + pass_rows, share.last);
        for (int column = 0; column < step.length; column += kDecodeTileColumns) {
          const int columns = min(kDecodeTileColumns, step.length - column);
          for (int row = pass; row < pass_end; row += kDecodeTileRows) {
            const int rows = min(kDecodeTileRows, pass_end - row);
            for (int w = 0; w < weights; ++w) {
              unsigned char* const to = begin_piece(rows * columns * kBytes);
              const T* const weight = static_cast<const T*>(w == 0 ? step.weight : step.up);
              const int64_t weight_stride = w == 0 ? step.weight_stride : step.up_stride;
              if (lane < rows) {
                copy(to + lane * kDecodeRowStride, weight + (row + lane) * weight_stride + column,
                     columns * kBytes);
              }
              ring.advance(1);
            }
          }
        }
      }
    } else {
      const DecodeAttentionPart& step = steps[s].attention;
      const CachedKeys keys(step, position);
      const int units = AttentionUnit::count(step, p.batch, kQueries);
      for (int u = static_cast<int>(blockIdx.x); u < units; u += static_cast<int>(gridDim.x)) {
        const AttentionUnit unit(step, u, kQueries);
        const int first = unit.part * keys.length, end = min(first + keys.length, keys.end);
        const int64_t head = static_cast<int64_t>(unit.b) * step.kv_heads + unit.kv_head;
        for (int key = first; key < end; key += step.keys_per_piece) {
          const int bytes = min(step.keys_per_piece, end - key) * step.dim * kBytes;
          const int64_t from = (head * step.slots + key) * step.dim;
          unsigned char* const to = begin_piece(2 * bytes);
          if (lane == 0) copy(to, static_cast<const T*>(step.keys) + from, bytes);
          if (lane == 1) {
            copy(to + step.keys_per_piece * step.dim * kBytes,
                 static_cast<const T*>(step.values) + from, bytes);
          }
          ring.advance(1);
        }
      }
    }
  }
}

}  // namespace weft::cuda
