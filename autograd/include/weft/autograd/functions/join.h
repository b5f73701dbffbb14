#pragma once

#include <vector>

#include "weft/autograd/variable.h"

namespace weft::autograd {

/// weft::cat; the gradient is cut into the pieces.
Variable cat(const std::vector<Variable>& variables, int axis);

/// weft::stack; the gradient is cut into the pieces.
Variable stack(const std::vector<Variable>& variables, int axis);

/// The rows of several weights [rows_i, columns] as one weight. Copies nothing when they lie one
/// behind the other in one storage, as pack_storage() leaves them.
Variable join_rows(const std::vector<Variable>& weights);

/// Moves the values of weights [rows_i, columns] of one type into one storage, one behind the
/// other.
void pack_storage(std::vector<Variable>& weights);

}  // namespace weft::autograd
