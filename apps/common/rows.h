#pragma once

#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

namespace weft::apps {

/// JSON text of two spaces a level. Bytes that are not UTF-8 are replaced.
std::string to_json_text(const nlohmann::ordered_json& value);

/// Objects with the same keys as CSV with a header line. `rows` is an array of them, or one.
std::string to_csv(const nlohmann::ordered_json& rows);

/// Cells in columns as wide as their longest, the first to the left and the others to the right.
std::string to_table(const std::vector<std::vector<std::string>>& lines);

}  // namespace weft::apps
