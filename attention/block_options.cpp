#include "block_options.h"

#include "weft/attention/block_compressor.h"
#include "weft/tensor/check.h"

#include "option_list.h"

namespace weft::attention {

std::vector<OptionInfo> block_options(const char* select_count) {
  return {integer_option("block", "16", "tokens of a compressed block", 1),
          integer_option(
              "stride", "16",
              "tokens from one compressed block to the next; divides block and select-block", 1),
          integer_option("select-block", "16", "tokens of a selected block; at least block", 1),
          integer_option("select-count", select_count,
                         "selected blocks of a token, initial and local included", 1),
          integer_option("initial", "1", "first blocks of the sequence, always selected", 0),
          integer_option("local", "2", "own block and those before it, always selected", 1)};
}

OptionInfo compressor_option(const char* help) {
  return choice_option("compressor", "mean", help, compressor_kinds());
}

BlockSizes block_sizes_from(const OptionValues& values) {
  return {.block = values.integer("block"),
          .stride = values.integer("stride"),
          .select_block = values.integer("select-block"),
          .select_count = values.integer("select-count"),
          .initial = values.integer("initial"),
          .local = values.integer("local")};
}

void check_block_sizes(const char* who, const BlockSizes& sizes) {
  const auto at_least = [&](const char* option, int64_t value, int64_t least) {
    WEFT_CHECK(value >= least, ConfigError, "{}: {} must be at least {}, got {}", who, option,
               least, value);
  };
  at_least("block", sizes.block, 1);
  at_least("stride", sizes.stride, 1);
  at_least("select_block", sizes.select_block, 1);
  at_least("select_count", sizes.select_count, 1);
  at_least("initial", sizes.initial, 0);
  at_least("local", sizes.local, 1);
  WEFT_CHECK(sizes.block % sizes.stride == 0, ConfigError,
             "{}: block ({}) must be a multiple of stride ({})", who, sizes.block, sizes.stride);
  WEFT_CHECK(sizes.select_block % sizes.stride == 0, ConfigError,
             "{}: select_block ({}) must be a multiple of stride ({})", who, sizes.select_block,
             sizes.stride);
  WEFT_CHECK(sizes.select_block >= sizes.block, ConfigError,
             "{}: select_block ({}) must be at least block ({})", who, sizes.select_block,
             sizes.block);
  WEFT_CHECK(sizes.select_count >= sizes.initial + sizes.local, ConfigError,
             "{}: select_count ({}) must be at least initial + local ({} + {})", who,
             sizes.select_count, sizes.initial, sizes.local);
}

}  // namespace weft::attention
