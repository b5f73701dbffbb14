#pragma once

#include <string>
#include <vector>

#include "common/attention_bench.h"

namespace weft::apps {

/// One measurement of `weft bench attention`.
struct AttentionBenchPoint {
  std::string name;
  int64_t seq_len = 0;
  AttentionBenchResult result{};
};

/// Where a line crosses that of the first mechanism.
struct Crossover {
  std::string name;
  double seq_len;
  double value;
};

/// Crossings of the other lines with the first, by straight lines between the measured points of
/// logarithmic axes. Each line is given by its values at `lengths`; one that is not positive is
/// left out.
std::vector<Crossover> crossovers(
    const std::vector<double>& lengths,
    const std::vector<std::pair<std::string, std::vector<double>>>& lines);

/// Charts of time and decoding (the fastest repeats), memory and cache against length, as one SVG
/// file.
std::string plot_attention(const std::vector<AttentionBenchPoint>& points,
                           const std::string& title);

}  // namespace weft::apps
