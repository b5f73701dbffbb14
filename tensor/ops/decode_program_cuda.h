#pragma once

// What the kernel of a decode program is told.
#include <cstdint>

#include "weft/tensor/dtype.h"
#include "weft/tensor/stream.h"

namespace weft {

/// y = x w^T, or silu(x w^T) * (x u^T), of vectors that all blocks have.
struct DecodeProductStep {
  const void* weight;
  const void* up;          // null: no gate
  const float* gain;       // of the norm; null: x is the output of the step before as it is
  const float* next_gain;  // of the next step that has a norm, else null
  void* y;                 // where the result is wanted in memory, else null
  int64_t weight_stride, up_stride, y_stride;  // elements
  int columns, length;
  float inverse_length, eps;
  bool adds;  // the output of the step before to the residual stream
};

struct DecodeAttentionPart {
  void* keys;  // [B, Hk, S, D]
  void* values;
  const float* table;  // may be null
  int slots;           // S
  int table_rows;
  int heads, kv_heads, dim;
  float scale;  // of scores in units of log 2
  int splits;   // parts of the keys at most
  int keys_per_piece;
};

struct DecodeProgramStep {
  bool is_product;
  union {
    DecodeProductStep product;
    DecodeAttentionPart attention;
  };
};

/// Shared memory of a block, in bytes from its start.
struct DecodeProgramLayout {
  int steps, shares, stream, gains, input, attention, parts, ring;
  int input_stride;  // elements between rows of x
  int pieces, piece_bytes;
  int total;
};

struct DecodeProgramParams {
  const DecodeProgramStep* steps;
  int step_count;
  int batch, width;   // sequences; elements of the residual stream
  int query_rows;     // 1 where every query head has its own keys, else kDecodeQueryRows
  const void* table;  // [V, width]
  bool table_is_f32;  // else of the program's type
  int64_t table_stride, vocabulary;
  const float* first_gain;             // of the first step that has a norm, else null
  const int64_t* tokens;               // [B]
  const int64_t* position;             // of the tokens; null: no attention
  unsigned* epoch;                     // marks up to this have been used
  unsigned long long* exchange[3];     // marked pairs [copies][B][exchange_stride], by turns
  int exchange_stride, exchange_copy;  // pairs between rows, and between copies
  unsigned long long* partials;        // marked values [B H][splits][D + 2]
  DecodeProgramLayout layout;
};

inline constexpr int kDecodeProgramWarps = 8;  // that compute
inline constexpr int kMostDecodeRows = 4;
/// Rows that a kernel for so many sequences has.
constexpr int decode_rows_of(int batch) {
  return batch == 1 ? 1 : kMostDecodeRows;
}
/// Rows of a weight, and columns of them, that a piece of the ring holds.
inline constexpr int kDecodeTileRows = 8, kDecodeTileColumns = 1024;
/// Tiles that are multiplied together, of one weight and of two, and their pieces at most.
inline constexpr int kDecodeTiles = 6, kDecodeGatedTiles = 3, kDecodeBatch = 6;
/// Of a step's output, each for another part of the blocks to read.
inline constexpr int kDecodeCopies = 4;
/// Pieces that are on their way from memory at a time: 34 KB a block keep it busy.
inline constexpr int kDecodeInFlight = 2;
/// Query heads that a part of the keys is met with at a time, where several share them.
inline constexpr int kDecodeQueryRows = 4;

/// Bytes between rows in shared memory, so that two rows beside each other lie in different halves
/// of the banks.
constexpr int64_t decode_row_stride(int64_t bytes) {
  constexpr int64_t kBanks = 128;
  return bytes + (kBanks + kBanks / 2 - bytes % kBanks) % kBanks;
}

/// Of a piece.
inline constexpr int kDecodeRowStride = static_cast<int>(decode_row_stride(2 * kDecodeTileColumns));

/// Floats of shared memory that attention needs for heads of this size, of which it takes as many
/// at a time.
constexpr int64_t decode_attention_floats(int64_t dim, int64_t queries) {
  // Queries, the new key and value, and what each warp found, with two statistics.
  return (queries + 2) * dim + kDecodeProgramWarps * (dim + 2);
}

/// Floats that the warps' parts of products need for so many rows of x: two sets by turns.
constexpr int64_t decode_parts_floats(int64_t rows) {
  return 2 * kDecodeProgramWarps * kDecodeBatch * kDecodeTileRows * rows;
}

/// Starts the kernel for bf16 or f16.
template <class T>
void run_decode_program(const DecodeProgramParams& params, unsigned blocks, Stream stream);
template <>
void run_decode_program<bf16>(const DecodeProgramParams& params, unsigned blocks, Stream stream);
template <>
void run_decode_program<f16>(const DecodeProgramParams& params, unsigned blocks, Stream stream);

}  // namespace weft
