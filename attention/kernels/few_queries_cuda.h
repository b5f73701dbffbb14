#pragma once

// Attention of few query rows on CUDA devices, as in decoding: reading keys and values is all the
// work.
#include "weft/tensor/stream.h"
#include "weft/tensor/tensor.h"

#include "kernels/flash_attention_kernels.h"

namespace weft::attention {

/// One decoding step: turns q and k of a packed projection, writes k and v to the cache, and
/// attends to all rows of the cache. The position comes from memory of the device.
struct DecodeStepParams {
  DType dtype = DType::f32;
  int64_t batch = 0, heads = 0, kv_heads = 0, dim = 0;
  int64_t slots = 0;             // rows of the cache: position p lies in row p mod slots
  const void* packed = nullptr;  // [B, (H + 2 Hk) D]
  int64_t packed_stride = 0;
  HeadsView keys, values;             // [B, slots, Hk, D]
  const int64_t* position = nullptr;  // of the token, on the device
  const float* table = nullptr;       // [positions, D], see rope_table(); null: no rotation
  int64_t table_rows = 0;
  void* o = nullptr;  // [B, H, D], dense
  double scale = 1;
  int splits = 1;
  float* partials = nullptr;     // see decode_scratch_floats()
  unsigned* counters = nullptr;  // decode_counters(), all zero before and after
  bool settled = false;          // see decode_attention()
};

/// Whether the kernels take heads of this type and size.
bool few_queries_take(DType dtype, int64_t dim);

/// Parts that the keys of a step are cut into on this device.
int decode_splits(int64_t batch, int64_t heads, int64_t kv_heads, int64_t slots, Device device);
/// Floats of DecodeStepParams::partials, and elements of counters.
int64_t decode_scratch_floats(int64_t batch, int64_t heads, int64_t dim, int splits);
int64_t decode_counters(int64_t batch, int64_t heads, int64_t kv_heads);

void decode_step_cuda(const DecodeStepParams& params, Stream stream);

/// Puts a problem of flash_attention with few query rows on the stream; false, with nothing done,
/// where sizes or layouts are not for these kernels.
bool few_queries_cuda(const FlashAttentionParams& params, Stream stream);

namespace gpu {

/// Keys that a part of a problem has at least.
inline constexpr int kLeastKeysOfPart = 64;

struct FewQueriesPlan {
  int splits = 1;
  float* sums = nullptr;        // [B, H, T, splits, D]
  float* statistics = nullptr;  // [B, H, T, splits, 2]
};

// For checked arguments of type T: float, bf16 or f16.
template <class T>
void run_decode_step(const DecodeStepParams& params, Stream stream);
template <class T>
void run_few_queries(const FlashAttentionParams& params, const FewQueriesPlan& plan, Stream stream);

}  // namespace gpu

}  // namespace weft::attention
