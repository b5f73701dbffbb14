#include "common/rows.h"

#include <algorithm>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace weft::apps {
namespace {

std::string csv_field(const nlohmann::ordered_json& value) {
  const std::string text = value.is_null()     ? ""
                           : value.is_string() ? value.get<std::string>()
                                               : value.dump();
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  std::string quoted;
  for (const char c : text) quoted.append(c == '"' ? 2 : 1, c);
  return fmt::format("\"{}\"", quoted);
}

}  // namespace

std::string to_json_text(const nlohmann::ordered_json& value) {
  return value.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

std::string to_csv(const nlohmann::ordered_json& rows) {
  if (rows.is_object()) return to_csv(nlohmann::ordered_json::array({rows}));
  if (rows.empty()) return "";
  std::vector<std::string> fields;
  for (const auto& [key, value] : rows.front().items()) fields.push_back(csv_field(key));
  std::string csv = fmt::format("{}\n", fmt::join(fields, ","));
  for (const nlohmann::ordered_json& row : rows) {
    fields.clear();
    for (const auto& [key, value] : row.items()) fields.push_back(csv_field(value));
    csv += fmt::format("{}\n", fmt::join(fields, ","));
  }
  return csv;
}

std::string to_table(const std::vector<std::vector<std::string>>& lines) {
  std::vector<size_t> widths;
  for (const std::vector<std::string>& line : lines) {
    widths.resize(std::max(widths.size(), line.size()));
    for (size_t i = 0; i < line.size(); ++i) widths[i] = std::max(widths[i], line[i].size());
  }
  std::string table;
  for (const std::vector<std::string>& line : lines) {
    for (size_t i = 0; i < line.size(); ++i) {
      table += i == 0 ? fmt::format("{:<{}}", line[i], widths[i])
                      : fmt::format("  {:>{}}", line[i], widths[i]);
    }
    table += "\n";
  }
  return table;
}

}  // namespace weft::apps
