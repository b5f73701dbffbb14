#pragma once

#include <cstdint>
#include <functional>

#include "weft/attention/selection.h"

namespace weft::attention {

// Lists that depend on positions alone, for all batch entries alike. On the CPU. Throw ConfigError.

/// Says whether queries of `group` whose last one stands in block `own` read `block` <= own.
using BlockRule = std::function<bool(int64_t group, int64_t own, int64_t block)>;

/// The blocks that a rule keeps of those that start at or before the last query of their tile. Time
/// grows with tiles times blocks.
Selection pattern_selection(const SelectionShape& shape, const BlockRule& keeps);

/// All blocks up to the tile's last query: read by a causal kernel, this is full attention.
Selection causal_selection(const SelectionShape& shape);

/// The blocks that hold one of the last `window` keys, its own included, of some query of the tile.
Selection window_selection(const SelectionShape& shape, int64_t window);

}  // namespace weft::attention
