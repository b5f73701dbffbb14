#pragma once

#include "weft/autograd/variable.h"

namespace weft::autograd {

// The functions of weft/tensor/ops/gather.h. They save the indices, which get no gradient; the
// gradients of an entry that was read several times add up.

Variable gather(const Variable& x, int axis, const Tensor& index);
Variable scatter_add(const Variable& x, int axis, const Tensor& index, const Variable& source);
Variable index_select(const Variable& x, int axis, const Tensor& index);
Variable index_add(const Variable& x, int axis, const Tensor& index, const Variable& source);

}  // namespace weft::autograd
