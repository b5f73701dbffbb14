#pragma once

#include <cstdint>

#include "weft/tensor/ops/rope.h"
#include "weft/tensor/tensor.h"

namespace weft::attention {

/// Where a step of decode_attention() keeps what its parts of the keys give, made once for a cache.
/// Steps that run at the same time need one each.
class DecodeScratch {
 public:
  DecodeScratch() = default;
  /// For a cache of `slots` rows of key heads as `split` has them.
  DecodeScratch(int64_t batch, int64_t slots, const QkvSplit& split, DType dtype, Device device);

 private:
  friend Tensor decode_attention(const Tensor& packed, const QkvSplit& split, Tensor& keys,
                                 Tensor& values, const Tensor& position, const Tensor& table,
                                 const DecodeScratch& scratch, bool settled);
  int splits_ = 0;  // 0: no kernel of its own
  Tensor partials_;
  Tensor counters_;  // i32, zero between steps
};

/// One decoding step of softmax attention whose position is data: the same call, captured in a
/// graph, serves every token. packed: [B, (H + Hk) D + Hk Dv], the projections of one token a
/// sequence, all at `position` (i64 [1] on packed's device). Queries and keys are turned by the row
/// of `table` (rope_table(); undefined: not turned), keys and values are written to row
/// position mod S of `keys` [B, Hk, S, D] and `values` [B, Hk, S, Dv], and each query attends to
/// all rows that are there: the last S tokens. Gives [B, H Dv].
///
/// On a GPU this is one kernel for f32, bf16 and f16 with D = Dv of whole vectors of 16 bytes up to
/// 512 bytes; else it is composed of other ops, and waits for the position. With `settled` nothing
/// but earlier steps has written position, keys and values on this stream since it was last waited
/// for, or since the replay of a graph began: the GPU then reads old rows before earlier kernels
/// are done. Throws ShapeError, DTypeError, DeviceError.
Tensor decode_attention(const Tensor& packed, const QkvSplit& split, Tensor& keys, Tensor& values,
                        const Tensor& position, const Tensor& table, const DecodeScratch& scratch,
                        bool settled = false);

/// Whether decode_attention() is one kernel that waits for nothing.
bool decodes_at_once(const QkvSplit& split, DType dtype, Device device);

}  // namespace weft::attention
