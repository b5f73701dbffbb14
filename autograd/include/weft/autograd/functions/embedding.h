#pragma once

#include <optional>

#include "weft/autograd/variable.h"

namespace weft::autograd {

/// weft::embedding; saves the ids. The gradient has the table's type.
Variable embedding(const Variable& table, const Tensor& ids,
                   std::optional<DType> out_dtype = std::nullopt);

}  // namespace weft::autograd
