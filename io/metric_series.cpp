#include "metric_series.h"

#include <optional>

namespace weft::io {

ChartSeries series_of(const MetricsTable& metrics, std::string_view column, int64_t first) {
  ChartSeries series{std::string(column), {}, {}};
  const int index = metrics.column(column);
  if (index < 0) return series;
  for (const MetricsTable::Row& row : metrics.rows) {
    const std::optional<double>& value = row.values[static_cast<size_t>(index)];
    if (!value || row.step < first) continue;
    series.x.push_back(static_cast<double>(row.step));
    series.y.push_back(*value);
  }
  return series;
}

}  // namespace weft::io
