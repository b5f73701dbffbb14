#pragma once

#include <cstdint>

#include "weft/tensor/tensor.h"

namespace weft {

// Both ends of a decoding step whose tokens and position stay on the device, so that the step can
// be captured in a graph and replayed: nothing here waits for the host.

/// Rows `tokens` (i64 [B], dense) of table [V, E], as `dtype`: [B, E]. Tokens outside the table
/// give zeros. Throws ShapeError, DTypeError, DeviceError.
Tensor token_rows(const Tensor& table, const Tensor& tokens, DType dtype);

/// Where a sequence stands.
struct TokenState {
  Tensor tokens;    ///< i64 [B]: the tokens that the next step reads
  Tensor position;  ///< i64 [2]: their position, and a zero that kernels count with
  Tensor history;   ///< i64 [B, S] that the device can write, page-locked memory where it is a GPU;
                    ///< may be undefined
};

/// Takes the largest of the first `count` logits [B, V] of each row, the first of equals,
/// infinities and NaN left out; -1 where none is finite. It becomes the row's token and, where
/// position < S, history[b, position]; then the position grows by one. With `settled` a GPU starts
/// before earlier kernels are done. Throws ShapeError, DTypeError, DeviceError.
void take_largest(const Tensor& logits, int64_t count, TokenState& state, bool settled = false);

}  // namespace weft
