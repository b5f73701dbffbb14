#include "nearest_name.h"

#include <algorithm>
#include <numeric>

#include <fmt/format.h>

namespace weft::attention {
namespace {

/// Insertions, deletions and replacements that turn `a` into `b`.
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 0; i < a.size(); ++i) {
    size_t diagonal = row[0]++;
    for (size_t j = 0; j < b.size(); ++j) {
      const size_t replaced = diagonal + (a[i] != b[j]);
      diagonal = row[j + 1];
      row[j + 1] = std::min({replaced, row[j] + 1, row[j + 1] + 1});
    }
  }
  return row.back();
}

}  // namespace

std::string name_hint(std::string_view name, const std::vector<std::string>& known) {
  if (known.empty()) return "there are none";
  const auto nearest =
      std::min_element(known.begin(), known.end(), [&](const std::string& a, const std::string& b) {
        return edit_distance(name, a) < edit_distance(name, b);
      });
  const std::string list = fmt::format("known: {}", fmt::join(known, ", "));
  if (edit_distance(name, *nearest) > std::max<size_t>(2, nearest->size() / 2)) return list;
  return fmt::format("did you mean \"{}\"? {}", *nearest, list);
}

}  // namespace weft::attention
