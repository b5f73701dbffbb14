#pragma once

#include "weft/tensor/ops/next_token.h"
#include "weft/tensor/stream.h"

namespace weft {

// Arguments are checked; tensors of the state are dense, and rows of logits and table too.

void token_rows_cpu(const Tensor& table, const Tensor& tokens, Tensor& rows, Stream stream);
void token_rows_cuda(const Tensor& table, const Tensor& tokens, Tensor& rows, Stream stream);

void take_largest_cpu(const Tensor& logits, int64_t count, TokenState& state, bool settled,
                      Stream stream);
void take_largest_cuda(const Tensor& logits, int64_t count, TokenState& state, bool settled,
                       Stream stream);

}  // namespace weft
