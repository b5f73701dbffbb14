#pragma once

#include "weft/tensor/stream.h"
#include "weft/tensor/tensor.h"

namespace weft {

/// out [N, E], dense, from a table [V, E] with dense rows and N dense ids, all of them valid.
void embedding_cpu(const Tensor& table, const Tensor& ids, Tensor& out, Stream stream);

/// dtable [V, E], dense, from dy [N, E] with dense rows and N dense ids, all of them valid.
void embedding_backward_cpu(const Tensor& dy, const Tensor& ids, Tensor& dtable, Stream stream);

}  // namespace weft
