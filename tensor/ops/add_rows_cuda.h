#pragma once

#include "weft/tensor/stream.h"
#include "weft/tensor/tensor.h"

namespace weft {

/// to[ids[i]] += source[i] for all i, without atomics: positions are sorted by id, and each row's
/// sum is taken in the order of its positions, in parts that depend on the ids alone, so that it
/// repeats to the bit. `source` [N, E] and `to` [V, E] have dense rows and one type, floating, i64
/// or i32, or `to` is f32 for a source of a half type; `ids` is dense. Ids outside [0, V) are
/// passed over and reported as a fault of `op`. With `overwrite` sums replace what is there instead
/// of being added to it; rows without an id stay.
void add_rows_cuda(const char* op, const Tensor& source, const Tensor& ids, Tensor& to,
                   bool overwrite, Stream stream);

}  // namespace weft
