#pragma once

#include <string_view>

#include "weft/io/metrics.h"
#include "weft/io/svg_chart.h"

namespace weft::io {

/// The values of a column by step, from step `first` on, as a line of its name; empty where there
/// is no such column.
ChartSeries series_of(const MetricsTable& metrics, std::string_view column, int64_t first = 0);

}  // namespace weft::io
