#pragma once

#include <cstdint>

#include "weft/tensor/dtype.h"
#include "weft/tensor/stream.h"

#include "kernels/flash_attention_kernels.h"

namespace weft::attention {

/// One block selection as launchers see it. Checked by the caller; lse is of `dtype`'s accumulator.
struct BlockSelectionParams {
  DType dtype = DType::f32;
  int64_t batch = 0, queries = 0, heads = 0, groups = 0, dim = 0;
  int64_t compressed = 0;  // Nc
  int64_t position = 0;    // of the first query
  int64_t compression_block = 1, compression_stride = 1, key_block = 1, query_tile = 1;
  int64_t count = 1, initial = 0, local = 1;  // at most the number of blocks
  int64_t tiles = 0;
  int64_t first_tile = 0;  // 1 where the lists of the first tile are inherited: they stand already
  double scale = 1;
  HeadsView q, k;
  const void* lse = nullptr;   // [B, H, T]
  int64_t* offsets = nullptr;  // [B * G * tiles + 1]; out, but given where lists are inherited
  int32_t* blocks = nullptr;   // out

  /// Position of the first query of a tile's run, whose list all of the run use.
  int64_t leader_position(int64_t tile) const {
    return (position / query_tile + tile) * query_tile;
  }
  /// Blocks in the lists of tiles [0, tile) of one (batch, group), none of them inherited: a list
  /// has all blocks that its leader sees, up to `count`. key_block is a multiple of query_tile.
  constexpr int64_t blocks_before(int64_t tile) const {
    const int64_t first = position / query_tile;
    return blocks_of_leaders(first + tile) - blocks_of_leaders(first);
  }
  /// Compressed keys that a query sees: those whose last token it sees.
  int64_t visible(int64_t query_position) const {
    const int64_t past = query_position + 1 - compression_block;
    const int64_t complete = past < 0 ? 0 : past / compression_stride + 1;
    return complete < compressed ? complete : compressed;
  }

 private:
  /// Blocks in the lists of the leaders at positions 0, r, ... (leaders - 1) r, r = query_tile.
  constexpr int64_t blocks_of_leaders(int64_t leaders) const {
    const int64_t of_block = key_block / query_tile;  // leaders
    const int64_t growing = (count - 1) * of_block;   // those that see fewer than `count` blocks
    if (leaders > growing) return growing * count / 2 + (leaders - growing) * count;
    const int64_t whole = leaders / of_block;
    return of_block * (whole * (whole + 1) / 2) + (leaders - whole * of_block) * (whole + 1);
  }
};

void select_blocks_cpu(const BlockSelectionParams& params, Stream stream);
void select_blocks_cuda(const BlockSelectionParams& params, Stream stream);

}  // namespace weft::attention
