#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace weft::io {

/// Values of some columns at one step.
using MetricValues = std::vector<std::pair<std::string, double>>;

/// The content of a metrics.csv.
struct MetricsTable {
  struct Row {
    int64_t step = 0;
    std::vector<std::optional<double>> values;  ///< one a column; nothing where it was not measured
  };
  std::vector<std::string> columns;  ///< "train/loss", ...; `step` is not among them
  std::vector<Row> rows;

  /// Position of a column; -1 where there is none.
  int column(std::string_view name) const;
};

/// Reads a metrics.csv. A last line without its line feed, left by a kill, is dropped. Throws
/// IoError, naming the line, where the file is missing or malformed.
MetricsTable read_metrics(const std::filesystem::path& path);

/// Writes metrics.csv: a header, then one line a step, as it comes: `step` and the columns, which
/// have the names of the TensorBoard tags. A new column that turns up later makes the file be
/// written anew. Throws IoError.
class MetricsWriter {
 public:
  /// Continues the file at `path`, or begins it: keeps the rows of steps up to `last_step`, those
  /// that a resumed run has behind it, and drops the later ones. -1 begins anew.
  explicit MetricsWriter(std::filesystem::path path, int64_t last_step = -1);
  ~MetricsWriter();
  MetricsWriter(const MetricsWriter&) = delete;
  MetricsWriter& operator=(const MetricsWriter&) = delete;

  /// Adds a row. Throws ConfigError on a column name with a comma, quote or line feed.
  void write(int64_t step, const MetricValues& values);

 private:
  void add_columns(const MetricValues& values);
  void rewrite(const MetricsTable& table);
  void open();

  std::filesystem::path path_;
  std::vector<std::string> columns_;
  int descriptor_ = -1;
};

}  // namespace weft::io
