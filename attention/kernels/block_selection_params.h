#pragma once

#include "weft/attention/kernels/block_selection.h"
#include "weft/attention/selection.h"

#include "kernels/block_selection_kernels.h"

namespace weft::attention {

/// What the lists' shape and the options decide of a selection's parameters. Left are the operands,
/// heads, dim and compressed, and a scale that is not set. Throws the ShapeError of `op` for more
/// blocks than lists can name.
BlockSelectionParams selection_params(const char* op, const SelectionShape& shape,
                                      const BlockSelectionOptions& options);

}  // namespace weft::attention
