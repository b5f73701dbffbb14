#pragma once

#include "weft/tensor/stream.h"
#include "weft/tensor/tensor.h"

namespace weft {

/// out [N, E], dense, of the table's type or, for f32, of a half type, from a table [V, E] with
/// dense rows and N dense ids, all of them valid.
void embedding_cpu(const Tensor& table, const Tensor& ids, Tensor& out, Stream stream);

/// dtable [V, E], dense and zero so far, of dy's type or, for half types, f32, from dy [N, E] with
/// dense rows and N dense ids, all of them valid.
void embedding_backward_cpu(const Tensor& dy, const Tensor& ids, Tensor& dtable, Stream stream);

// Ids outside the table give zeros, and none of their gradient goes anywhere; they are reported as
// faults.
void embedding_cuda(const Tensor& table, const Tensor& ids, Tensor& out, Stream stream);
void embedding_backward_cuda(const Tensor& dy, const Tensor& ids, Tensor& dtable, Stream stream);

}  // namespace weft
