#include "weft/attention/mechanism.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <optional>

#include "weft/tensor/check.h"

#include "nearest_name.h"

namespace weft::attention {
namespace {

std::optional<double> parse_number(std::string_view text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !std::isfinite(value)) return {};
  return value;
}

std::optional<double> parse_integer(std::string_view text) {
  int64_t unit = 1;
  if (!text.empty() && (text.back() == 'k' || text.back() == 'M')) {
    unit = text.back() == 'k' ? int64_t{1} << 10 : int64_t{1} << 20;
    text.remove_suffix(1);
  }
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return {};
  // Far inside the numbers that a double holds exactly, so that ranges can be compared.
  if (std::abs(static_cast<double>(value)) * static_cast<double>(unit) > 0x1p52) return {};
  return static_cast<double>(value * unit);
}

std::optional<double> parse_boolean(std::string_view text) {
  for (const char* word : {"true", "on", "yes", "1"}) {
    if (text == word) return 1;
  }
  for (const char* word : {"false", "off", "no", "0"}) {
    if (text == word) return 0;
  }
  return {};
}

std::optional<double> parse(const OptionInfo& info, std::string_view value) {
  std::optional<double> number;
  switch (info.kind) {
    case OptionKind::boolean:
      return parse_boolean(value);
    case OptionKind::choice:
      number = std::find(info.choices.begin(), info.choices.end(), value) - info.choices.begin();
      if (*number == static_cast<double>(info.choices.size())) number.reset();
      return number;
    case OptionKind::integer:
      number = parse_integer(value);
      break;
    case OptionKind::number:
      number = parse_number(value);
      break;
  }
  if (number && (*number < info.min || *number > info.max)) number.reset();
  return number;
}

}  // namespace

std::string allowed_values(const OptionInfo& option) {
  switch (option.kind) {
    case OptionKind::boolean:
      return "true or false";
    case OptionKind::choice:
      return fmt::format("one of {}", fmt::join(option.choices, ", "));
    default:
      break;
  }
  std::string text = option.kind == OptionKind::integer ? "an integer" : "a number";
  if (std::isfinite(option.min)) text += fmt::format(" of at least {}", option.min);
  if (std::isfinite(option.max)) text += fmt::format(" up to {}", option.max);
  return text;
}

OptionValues::OptionValues(std::string mechanism, std::vector<OptionInfo> schema)
    : mechanism_(std::move(mechanism)), schema_(std::move(schema)) {
  for (const OptionInfo& option : schema_) values_[option.name] = option.default_value;
}

bool OptionValues::knows(std::string_view name) const {
  return values_.find(name) != values_.end();
}

const OptionInfo& OptionValues::info(std::string_view name) const {
  for (const OptionInfo& option : schema_) {
    if (option.name == name) return option;
  }
  std::vector<std::string> names;
  for (const OptionInfo& option : schema_) names.push_back(option.name);
  throw_error<ConfigError>("attention {}: unknown option \"{}\"; {}", mechanism_, name,
                           name_hint(name, names));
}

void OptionValues::set(std::string_view name, std::string_view value) {
  const OptionInfo& option = info(name);
  WEFT_CHECK(parse(option, value), ConfigError, "attention {}: {} must be {}, got \"{}\"",
             mechanism_, option.name, allowed_values(option), value);
  values_.find(name)->second = value;
}

int64_t OptionValues::integer(std::string_view name) const {
  return static_cast<int64_t>(*parse(info(name), text(name)));
}
double OptionValues::number(std::string_view name) const {
  return *parse(info(name), text(name));
}
bool OptionValues::boolean(std::string_view name) const {
  return *parse(info(name), text(name)) != 0;
}
const std::string& OptionValues::text(std::string_view name) const {
  info(name);
  return values_.find(name)->second;
}

}  // namespace weft::attention
