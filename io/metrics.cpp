#include "weft/io/metrics.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <span>

#include <fcntl.h>
#include <unistd.h>

#include "weft/io/atomic_file.h"
#include "weft/tensor/check.h"

#include "file_descriptor.h"

namespace weft::io {
namespace {

constexpr std::string_view kStep = "step";

std::vector<std::string_view> split_fields(std::string_view line) {
  std::vector<std::string_view> fields;
  for (;;) {
    const size_t end = line.find(',');
    fields.push_back(line.substr(0, end));
    if (end == std::string_view::npos) return fields;
    line.remove_prefix(end + 1);
  }
}

template <class T>
bool parse_whole(std::string_view text, T& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size();
}

std::string header_line(const std::vector<std::string>& columns) {
  std::string line(kStep);
  for (const std::string& column : columns) (line += ',') += column;
  return line + '\n';
}

/// Shortest text that reads back as the same number.
std::string row_line(int64_t step, std::span<const std::optional<double>> values) {
  std::string line = fmt::format("{}", step);
  for (const std::optional<double>& value : values) {
    line += ',';
    if (value) line += fmt::format("{}", *value);
  }
  return line + '\n';
}

}  // namespace

int MetricsTable::column(std::string_view name) const {
  const auto found = std::find(columns.begin(), columns.end(), name);
  return found == columns.end() ? -1 : static_cast<int>(found - columns.begin());
}

MetricsTable read_metrics(const std::filesystem::path& path) {
  const std::string text = read_small_file(path);
  MetricsTable table;
  std::string_view rest = text;
  for (int64_t number = 1; !rest.empty(); ++number) {
    const size_t end = rest.find('\n');
    if (end == std::string_view::npos) break;
    const std::vector<std::string_view> fields = split_fields(rest.substr(0, end));
    rest.remove_prefix(end + 1);
    if (number == 1) {
      WEFT_CHECK(fields[0] == kStep, IoError,
                 "'{}' line 1: the first column must be 'step', got '{}'", path.string(),
                 fields[0]);
      table.columns.assign(fields.begin() + 1, fields.end());
      continue;
    }
    WEFT_CHECK(fields.size() == table.columns.size() + 1, IoError,
               "'{}' line {}: {} fields, expected {}", path.string(), number, fields.size(),
               table.columns.size() + 1);
    MetricsTable::Row row;
    bool good = parse_whole(fields[0], row.step);
    for (const std::string_view field : std::span(fields).subspan(1)) {
      double value = 0;
      if (!field.empty()) good = good && parse_whole(field, value);
      row.values.push_back(field.empty() ? std::nullopt : std::optional(value));
    }
    WEFT_CHECK(good, IoError, "'{}' line {}: a field is not a number", path.string(), number);
    table.rows.push_back(std::move(row));
  }
  return table;
}

MetricsWriter::MetricsWriter(std::filesystem::path path, int64_t last_step)
    : path_(std::move(path)) {
  MetricsTable table;
  std::error_code error;
  if (last_step >= 0 && std::filesystem::exists(path_, error)) table = read_metrics(path_);
  std::erase_if(table.rows, [=](const MetricsTable::Row& row) { return row.step > last_step; });
  rewrite(table);
}

MetricsWriter::~MetricsWriter() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void MetricsWriter::rewrite(const MetricsTable& table) {
  std::string text = header_line(table.columns);
  for (const MetricsTable::Row& row : table.rows) text += row_line(row.step, row.values);
  if (descriptor_ >= 0) ::close(descriptor_);
  descriptor_ = -1;
  write_file_atomically(path_, text);
  columns_ = table.columns;
  open();
}

void MetricsWriter::open() {
  descriptor_ = ::open(path_.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC);
  WEFT_CHECK(descriptor_ >= 0, IoError, "cannot write '{}': {}", path_.string(), error_text(errno));
}

void MetricsWriter::add_columns(const MetricValues& values) {
  MetricsTable table;
  for (const auto& [name, value] : values) {
    if (std::find(columns_.begin(), columns_.end(), name) != columns_.end()) continue;
    WEFT_CHECK(!name.empty() && name != kStep && name.find_first_of(",\"\r\n") == std::string::npos,
               ConfigError, "metrics: '{}' cannot be the name of a column", name);
    if (table.columns.empty()) table = read_metrics(path_);
    if (table.column(name) >= 0) continue;
    table.columns.push_back(name);
    for (MetricsTable::Row& row : table.rows) row.values.emplace_back();
  }
  if (!table.columns.empty()) rewrite(table);
}

void MetricsWriter::write(int64_t step, const MetricValues& values) {
  add_columns(values);
  std::vector<std::optional<double>> fields(columns_.size());
  for (const auto& [name, value] : values) {
    const auto column = std::find(columns_.begin(), columns_.end(), name) - columns_.begin();
    fields[static_cast<size_t>(column)] = value;
  }
  const std::string line = row_line(step, fields);
  if (const int error = append_fully(descriptor_, line.data(), line.size()))
    throw_error<IoError>("cannot write '{}': {}", path_.string(), error_text(error));
}

}  // namespace weft::io
