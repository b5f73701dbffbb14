#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace weft::apps {

/// What a model of 24 layers with heads of 64 caches, in bf16.
struct CacheTableRow {
  std::string layers;      ///< which mechanism, and what of it counts
  double elements = 0;     ///< per token and layer, mean over the layers
  double bytes = 0;        ///< the same, of bf16
  double model_bytes = 0;  ///< per token, all layers
  double to_nsa = 0;       ///< against the row of NSA with as many key heads
};

/// The cache of the models of apps/configs/ by mechanism, counted from what the mechanisms'
/// cache_bytes() say.
std::vector<CacheTableRow> cache_table();

/// How the published "half of the cache" can be read, with the rows' numbers.
std::string describe_readings(const std::vector<CacheTableRow>& rows);

}  // namespace weft::apps
