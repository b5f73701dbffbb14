#pragma once

#include <cstdint>
#include <vector>

#include "weft/attention/mechanism.h"

namespace weft::attention {

/// The options of mechanisms that compress blocks of tokens and select others, whose lists hold
/// `select_count` blocks by default.
std::vector<OptionInfo> block_options(const char* select_count);
OptionInfo compressor_option(const char* help);

/// How blocks and lists fit together.
struct BlockSizes {
  int64_t block, stride, select_block, select_count, initial, local;
};
BlockSizes block_sizes_from(const OptionValues& values);
/// Throws ConfigError, which begins with `who`, with value and rule.
void check_block_sizes(const char* who, const BlockSizes& sizes);

}  // namespace weft::attention
