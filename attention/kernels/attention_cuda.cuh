#pragma once

// Tiles of query rows and the keys that they read.
#include "kernels/attention_cuda.h"
#include "kernels/tile_cuda.cuh"

namespace weft::attention::gpu {

/// A unit, and the rows of it that one block of threads has.
struct RowTile {
  int batch, kv_head, list;     // list: where selected
  int first_token, last_token;  // of the unit
  int first_row, rows;          // rows of the tile that exist

  __device__ RowTile(const Problem& p, int64_t unit, int first, int most) : first_row(first) {
    if (p.selected) {
      const int tile = static_cast<int>(unit % p.list_tiles);
      unit /= p.list_tiles;
      first_token = p.first_query(tile);
      last_token = p.first_query(tile + 1);
      list = tile;
    } else {
      first_token = 0;
      last_token = p.queries;
      list = 0;
    }
    batch = static_cast<int>(unit / p.kv_heads);
    kv_head = static_cast<int>(unit % p.kv_heads);
    if (p.selected) list += (batch * p.list_groups + kv_head / p.heads_per_list) * p.list_tiles;
    const int64_t left = static_cast<int64_t>(last_token - first_token) * p.group - first;
    rows = left < 0 ? 0 : left < most ? static_cast<int>(left) : most;
  }
  __device__ int token(const Problem& p, int row) const {
    return first_token + (first_row + row) / p.group;
  }
  __device__ int head(const Problem& p, int row) const {
    return kv_head * p.group + (first_row + row) % p.group;
  }
};

/// The keys that a tile of rows reads, as places [first, last): keys themselves, or places in the
/// listed blocks one behind the other.
struct KeyPlaces {
  int first = 0, last = 0;
  const int32_t* blocks = nullptr;
  int block = 1, limit = 0;  // limit: behind the last key that some row sees

  /// `part`: places in runs of part_keys, of which a call takes one; all of them where that is 0.
  __device__ KeyPlaces(const Problem& p, const RowTile& rows, int tile, int part, int part_keys) {
    if (rows.rows == 0) return;
    const int begin = rows.token(p, 0), end = rows.token(p, rows.rows - 1) + 1;
    limit = p.last_key(end);
    if (p.selected) {
      blocks = p.blocks + p.offsets[rows.list];
      block = p.key_block;
      // Blocks that begin before the limit.
      int low = 0, high = static_cast<int>(p.offsets[rows.list + 1] - p.offsets[rows.list]);
      while (low < high) {
        const int middle = (low + high) / 2;
        if (static_cast<int64_t>(blocks[middle]) * block < limit) {
          low = middle + 1;
        } else {
          high = middle;
        }
      }
      last = low * block;
    } else {
      first = p.first_key(begin) / tile * tile;
      last = limit;
    }
    if (part_keys > 0) {
      // Cut at fixed keys, so that a window that moves does not change how keys are summed.
      first = (first / part_keys + part) * part_keys;
      last = first + part_keys < last ? first + part_keys : last;
    }
  }

  __device__ int tiles(int tile) const {
    return last > first ? (last - first + tile - 1) / tile : 0;
  }

  /// The key at a place, or -1.
  __device__ int key(int place) const {
    if (place >= last) return -1;
    if (blocks == nullptr) return place;
    const int index = place / block;
    const int key = blocks[index] * block + (place - index * block);
    return key < limit ? key : -1;
  }
};

/// Keys [first, last) that one row sees.
struct Seen {
  int first = 0, last = 0;

  __device__ Seen() {}
  __device__ Seen(const Problem& p, int token)
      : first(p.first_key(token)), last(p.last_key(token + 1)) {}
  __device__ bool contains(int key) const { return key >= first && key < last; }
};

/// Whether every row of a tile sees all of `keys` [kN], which ascend; what is missing is -1 and
/// stands last.
template <int kN>
__device__ __forceinline__ bool all_seen(const Problem& p, const RowTile& rows, const int* keys) {
  if (rows.rows == 0 || keys[kN - 1] < 0) return false;
  // Later rows see later keys.
  return keys[0] >= p.first_key(rows.token(p, rows.rows - 1)) &&
         keys[kN - 1] < p.last_key(rows.token(p, 0) + 1);
}

[[noreturn]] inline void throw_too_wide(const char* op, const Problem& p) {
  throw NotImplementedError(
      std::string(op) + ": head dims " + std::to_string(p.dim + p.second_dim) + " and " +
      std::to_string(p.value_dim) + " take more shared memory than a block of threads has");
}

/// Sizes of the tiles of a kernel, and how its warps share a result.
template <int kRowsIn, int kKeysIn, int kColumnsIn, int kWarpsMIn, int kWarpsNIn>
struct Tiling {
  static constexpr int kRows = kRowsIn;        // query rows
  static constexpr int kKeys = kKeysIn;        // keys that are met at a time
  static constexpr int kColumns = kColumnsIn;  // of the result, that one block of threads has
  static constexpr int kWarpsM = kWarpsMIn, kWarpsN = kWarpsNIn;
  static constexpr int kThreads = 32 * kWarpsM * kWarpsN;
  static constexpr int kTilesM = kRows / kWarpsM / 16;   // of a warp, along rows
  static constexpr int kKeyTiles = kKeys / kWarpsN / 8;  // along keys
  static constexpr int kColumnTiles = kColumns / kWarpsN / 8;
  static_assert(kTilesM >= 1 && kKeyTiles >= 1 && kColumnTiles % 2 == 0);
};

}  // namespace weft::attention::gpu
