#include "common/options.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <numeric>
#include <optional>
#include <sstream>

#include <boost/program_options.hpp>
#include <fmt/format.h>

namespace weft::apps {
namespace {

namespace po = boost::program_options;

std::string trim(const std::string& text) {
  const size_t first = text.find_first_not_of(" \t\r\n");
  if (first == std::string::npos) return "";
  return text.substr(first, text.find_last_not_of(" \t\r\n") - first + 1);
}

double parse_number(const std::string& text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !std::isfinite(value)) {
    throw UsageError(fmt::format("'{}' is not a number", text));
  }
  return value;
}

bool parse_bool(const std::string& text) {
  if (text == "true" || text == "1" || text == "yes" || text == "on") return true;
  if (text == "false" || text == "0" || text == "no" || text == "off") return false;
  throw UsageError(fmt::format("'{}' is neither true nor false", text));
}

void check_range(double value, const std::string& text, Range range) {
  if (value >= range.min && value <= range.max) return;
  if (range.max >= 1e300)
    throw UsageError(fmt::format("{} is out of range; at least {} is allowed", text, range.min));
  throw UsageError(
      fmt::format("{} is out of range; allowed is {} to {}", text, range.min, range.max));
}

size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 0; i < a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i + 1;
    for (size_t j = 0; j < b.size(); ++j) {
      const size_t substituted = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({row[j + 1] + 1, row[j] + 1, substituted});
    }
  }
  return row.back();
}

/// The text after `key =`. What a bare line could not hold (line feeds, blanks at the ends) stands
/// in double quotes with the escapes \\n \\r \\t \\" \\\\.
std::string to_config_value(const std::string& text) {
  const bool plain = trim(text) == text && text.find_first_of("\n\r\t") == std::string::npos &&
                     !text.starts_with('"');
  if (plain) return text;
  std::string quoted = "\"";
  for (const char c : text) {
    switch (c) {
      case '\n':
        quoted += "\\n";
        break;
      case '\r':
        quoted += "\\r";
        break;
      case '\t':
        quoted += "\\t";
        break;
      case '"':
      case '\\':
        quoted += '\\';
        [[fallthrough]];
      default:
        quoted += c;
    }
  }
  return quoted + '"';
}

std::string from_config_value(const std::string& text) {
  if (!text.starts_with('"')) return text;
  std::string value;
  for (size_t i = 1; i < text.size(); ++i) {
    if (text[i] == '"' && i + 1 == text.size()) return value;
    if (text[i] == '"') break;
    if (text[i] != '\\') {
      value += text[i];
      continue;
    }
    constexpr std::string_view kEscapes = "nrt\"\\";
    constexpr std::string_view kMeanings = "\n\r\t\"\\";
    const size_t escape = ++i < text.size() ? kEscapes.find(text[i]) : std::string_view::npos;
    if (escape == std::string_view::npos) break;
    value += kMeanings[escape];
  }
  throw UsageError(fmt::format(
      "{} is not a well-formed text in double quotes (escapes are \\n \\r \\t \\\" \\\\)",
      text.substr(0, 80)));
}

std::string read_config_file(const std::string& path) {
  constexpr size_t kMostBytes = size_t{1} << 20;
  std::ifstream file(path, std::ios::binary);
  std::string text(kMostBytes + 1, '\0');
  if (!file.read(text.data(), static_cast<std::streamsize>(text.size())) && !file.eof())
    throw UsageError(fmt::format("--config: cannot read '{}'", path));
  text.resize(static_cast<size_t>(file.gcount()));
  if (text.size() > kMostBytes)
    throw UsageError(
        fmt::format("--config: '{}' is no config file: it is longer than 1 MiB", path));
  return text;
}

const char* to_string(Origin origin) {
  switch (origin) {
    case Origin::default_value:
      return "defaults";
    case Origin::file:
      return "from the config file";
    case Origin::environment:
      return "from the environment";
    case Origin::flag:
      return "from flags";
  }
  return "";
}

}  // namespace

std::string nearest(std::string_view name, const std::vector<std::string>& known) {
  std::string best;
  size_t best_distance = std::max<size_t>(2, name.size() / 3) + 1;
  for (const std::string& candidate : known) {
    const size_t distance = edit_distance(name, candidate);
    if (distance < best_distance) {
      best_distance = distance;
      best = candidate;
    }
  }
  return best;
}

int64_t parse_size(const std::string& text) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const std::string suffix(end, text.data() + text.size());
  int64_t factor = 1;
  if (suffix == "k" || suffix == "K") {
    factor = 1024;
  } else if (suffix == "M") {
    factor = 1024 * 1024;
  } else if (suffix == "G") {
    factor = 1024 * 1024 * 1024;
  } else if (!suffix.empty()) {
    factor = 0;
  }
  if (factor == 0 || error == std::errc::invalid_argument) {
    throw UsageError(fmt::format("'{}' is not a whole number (64k and 1M are allowed)", text));
  }
  if (error == std::errc::result_out_of_range || __builtin_mul_overflow(value, factor, &value)) {
    throw UsageError(fmt::format("'{}' is too large", text));
  }
  return value;
}

Options::Options(std::string command, std::string summary, std::string example,
                 std::string positional)
    : command_(std::move(command)),
      summary_(std::move(summary)),
      example_(std::move(example)),
      positional_name_(std::move(positional)) {}

Options& Options::group(std::string title) {
  current_group_ = std::move(title);
  return *this;
}

Options::Option& Options::add_option(std::string name, std::string help, std::string value_name) {
  Option option;
  option.name = std::move(name);
  option.help = std::move(help);
  option.group = current_group_;
  option.value_name = std::move(value_name);
  options_.push_back(std::move(option));
  return options_.back();
}

Options& Options::add(std::string name, bool* target, std::string help) {
  Option& option = add_option(std::move(name), std::move(help), "");
  option.set = [target](const std::string& text) { *target = parse_bool(text); };
  option.get = [target] { return *target ? "true" : "false"; };
  option.default_text = option.get();
  return *this;
}

Options& Options::add(std::string name, int64_t* target, std::string help, Range range) {
  Option& option = add_option(std::move(name), std::move(help), "N");
  option.set = [target, range](const std::string& text) {
    const int64_t value = parse_size(text);
    check_range(static_cast<double>(value), text, range);
    *target = value;
  };
  option.get = [target] { return std::to_string(*target); };
  option.default_text = option.get();
  return *this;
}

Options& Options::add(std::string name, uint64_t* target, std::string help) {
  Option& option = add_option(std::move(name), std::move(help), "N");
  option.set = [target](const std::string& text) {
    const int64_t value = parse_size(text);
    check_range(static_cast<double>(value), text, {0});
    *target = static_cast<uint64_t>(value);
  };
  option.get = [target] { return std::to_string(*target); };
  option.default_text = option.get();
  return *this;
}

Options& Options::add(std::string name, double* target, std::string help, Range range) {
  Option& option = add_option(std::move(name), std::move(help), "X");
  option.set = [target, range](const std::string& text) {
    const double value = parse_number(text);
    check_range(value, text, range);
    *target = value;
  };
  option.get = [target] { return fmt::format("{}", *target); };
  option.default_text = option.get();
  return *this;
}

Options& Options::add(std::string name, std::string* target, std::string help) {
  Option& option = add_option(std::move(name), std::move(help), "TEXT");
  option.set = [target](const std::string& text) { *target = text; };
  option.get = [target] { return *target; };
  option.default_text = option.get();
  return *this;
}

Options& Options::add(std::string name, std::string* target, std::string help,
                      std::vector<std::string> choices) {
  add(std::move(name), target, std::move(help));
  Option& option = options_.back();
  option.choices = choices;
  option.set = [target, choices = std::move(choices)](const std::string& text) {
    if (std::find(choices.begin(), choices.end(), text) == choices.end()) {
      throw UsageError(
          fmt::format("'{}' is unknown; allowed are {}", text, fmt::join(choices, ", ")));
    }
    *target = text;
  };
  return *this;
}

Options& Options::add(std::string name, std::vector<std::string>* target, std::string help) {
  Option& option = add_option(std::move(name), std::move(help), "A,B,...");
  option.is_list = true;
  option.set = [target](const std::string& text) {
    target->clear();
    std::stringstream stream(text);
    for (std::string item; std::getline(stream, item, ',');) {
      if (item = trim(item); !item.empty()) target->push_back(item);
    }
  };
  option.get = [target] { return fmt::format("{}", fmt::join(*target, ",")); };
  option.default_text = option.get();
  return *this;
}

Options& Options::short_name(char letter) {
  options_.back().short_name = letter;
  return *this;
}

Options& Options::environment(std::string variable) {
  options_.back().environment = std::move(variable);
  return *this;
}

Options& Options::not_in_config() {
  options_.back().in_config = false;
  return *this;
}

Options& Options::required() {
  options_.back().required = true;
  return *this;
}

Options& Options::value_if_bare(std::string value) {
  options_.back().bare_value = std::move(value);
  return *this;
}

Options& Options::accept_config_of(const Options& other) {
  for (const auto& [key, value] : other.values()) ignored_keys_.push_back(key);
  return *this;
}

Options::Option* Options::find(std::string_view name) {
  const auto found = std::find_if(options_.begin(), options_.end(),
                                  [&](const Option& o) { return o.name == name; });
  return found == options_.end() ? nullptr : &*found;
}

const Options::Option* Options::find(std::string_view name) const {
  return const_cast<Options*>(this)->find(name);
}

Origin Options::origin(std::string_view name) const {
  const Option* option = find(name);
  if (option == nullptr) throw std::logic_error(fmt::format("there is no option '{}'", name));
  return option->origin;
}

void Options::assign(Option& option, const std::string& text, Origin origin,
                     const std::string& shown_name) {
  try {
    option.set(text);
  } catch (const UsageError& error) {
    throw UsageError(fmt::format("{}: {}", shown_name, error.what()));
  }
  option.origin = origin;
}

void Options::unknown(const std::string& name, const std::string& where) const {
  std::vector<std::string> known;
  for (const Option& option : options_) {
    known.push_back(option.name);
    if (option.value_name.empty()) known.push_back("no-" + option.name);
  }
  const std::string close = nearest(name, known);
  const bool in_file = !where.empty();
  throw UsageError(fmt::format(
      "{}unknown {} '{}{}'{}; weft {} --help lists all", in_file ? where + ": " : "",
      in_file ? "key" : "option", in_file ? "" : "--", name,
      close.empty() ? "" : fmt::format(", did you mean '{}{}'", in_file ? "" : "--", close),
      command_));
}

bool Options::parse(const std::vector<std::string>& arguments) {
  po::options_description description;
  bool config_option = false;
  for (const Option& option : options_) {
    const std::string names =
        option.short_name ? fmt::format("{},{}", option.name, option.short_name) : option.name;
    if (option.value_name.empty()) {
      description.add_options()(names.c_str(), "")(("no-" + option.name).c_str(), "");
    } else {
      auto* const value = po::value<std::vector<std::string>>();
      if (option.bare_value) value->implicit_value({*option.bare_value}, "");
      description.add_options()(names.c_str(), value, "");
    }
    config_option = config_option || option.in_config;
  }
  config_option = config_option || !ignored_keys_.empty();
  description.add_options()("help,h", "");
  if (config_option) description.add_options()("config,c", po::value<std::string>(), "");
  description.add_options()("positional-arguments", po::value<std::vector<std::string>>(), "");
  po::positional_options_description positional;
  positional.add("positional-arguments", -1);

  std::vector<po::option> parsed;
  try {
    parsed =
        po::command_line_parser(arguments)
            .options(description)
            .positional(positional)
            .style(po::command_line_style::unix_style & ~po::command_line_style::allow_guessing)
            .run()
            .options;
  } catch (const po::unknown_option& error) {
    std::string name = error.get_option_name();
    name.erase(0, name.find_first_not_of('-'));
    unknown(name, "");
  } catch (const po::error& error) {
    throw UsageError(error.what());
  }

  // Help first, then from the weakest source to the strongest.
  for (const po::option& given : parsed) {
    if (given.string_key != "help") continue;
    std::cout << help();
    return false;
  }
  std::optional<std::string> config_path;
  for (const po::option& given : parsed) {
    if (given.string_key != "config") continue;
    if (config_path) throw UsageError("--config is given twice");
    config_path = given.value.at(0);
  }
  if (config_path) parse_config(read_config_file(*config_path), *config_path);
  read_environment();
  std::vector<std::string> seen;
  for (const po::option& given : parsed) {
    if (given.string_key == "config") continue;
    if (given.string_key == "positional-arguments") {
      if (positional_name_.empty()) {
        throw UsageError(fmt::format("unexpected argument '{}'; weft {} takes options alone",
                                     given.value.at(0), command_));
      }
      positional_values_.insert(positional_values_.end(), given.value.begin(), given.value.end());
      continue;
    }
    const bool negated = find(given.string_key) == nullptr && given.string_key.starts_with("no-");
    Option& option = *find(negated ? given.string_key.substr(3) : given.string_key);
    const bool again = std::find(seen.begin(), seen.end(), option.name) != seen.end();
    seen.push_back(option.name);
    std::string text = option.value_name.empty()                  ? (negated ? "false" : "true")
                       : given.value.empty() && option.bare_value ? *option.bare_value
                                                                  : given.value.at(0);
    if (again && option.is_list) {
      text = option.get() + "," + text;
    } else if (again && text != option.get()) {
      throw UsageError(fmt::format("--{} is given twice", option.name));
    }
    assign(option, text, Origin::flag, "--" + given.string_key);
  }
  for (const Option& option : options_) {
    if (option.required && option.origin == Origin::default_value) {
      throw UsageError(
          fmt::format("--{} is required; weft {} --help lists all", option.name, command_));
    }
  }
  return true;
}

void Options::parse_config(const std::string& text, const std::string& source) {
  std::stringstream stream(text);
  int line_number = 0;
  std::vector<std::string> seen;
  for (std::string raw; std::getline(stream, raw);) {
    ++line_number;
    const std::string line = trim(raw);
    if (line.empty() || line[0] == '#' || line[0] == ';') continue;
    const std::string where = fmt::format("{}:{}", source, line_number);
    const size_t equals = line.find('=');
    if (equals == std::string::npos) {
      throw UsageError(
          fmt::format("{}: '{}' is not of the form key = value", where, line.substr(0, 80)));
    }
    const std::string key = trim(line.substr(0, equals));
    Option* option = find(key);
    if (option == nullptr &&
        std::find(ignored_keys_.begin(), ignored_keys_.end(), key) != ignored_keys_.end())
      continue;
    if (option == nullptr || !option->in_config) unknown(key, where);
    if (std::find(seen.begin(), seen.end(), key) != seen.end()) {
      throw UsageError(fmt::format("{}: key '{}' is given twice", where, key));
    }
    seen.push_back(key);
    const std::string shown_name = fmt::format("{}: {}", where, key);
    std::string value;
    try {
      value = from_config_value(trim(line.substr(equals + 1)));
    } catch (const UsageError& error) {
      throw UsageError(fmt::format("{}: {}", shown_name, error.what()));
    }
    assign(*option, value, Origin::file, shown_name);
  }
}

void Options::read_environment() {
  for (Option& option : options_) {
    if (option.environment.empty()) continue;
    if (const char* text = std::getenv(option.environment.c_str());
        text != nullptr && *text != '\0') {
      assign(option, text, Origin::environment, option.environment);
    }
  }
}

std::string Options::help() const {
  std::string text = fmt::format("{}\n\nUsage: weft {}{} [options]\n", summary_, command_,
                                 positional_name_.empty() ? "" : " " + positional_name_);
  std::string group;
  const auto line = [&text](const std::string& left, const std::string& right) {
    constexpr size_t kColumn = 34;
    if (left.size() + 2 < kColumn) {
      text += fmt::format("  {:<{}}{}\n", left, kColumn - 2, right);
    } else {
      text += fmt::format("  {}\n{:{}}{}\n", left, "", kColumn, right);
    }
  };
  for (const Option& option : options_) {
    if (option.group != group) {
      group = option.group;
      text += fmt::format("\n{}:\n", group);
    }
    std::string left = option.short_name ? fmt::format("-{}, ", option.short_name) : "";
    left += option.value_name.empty() ? fmt::format("--{}, --no-{}", option.name, option.name)
            : option.bare_value       ? fmt::format("--{}[={}]", option.name, option.value_name)
                                      : fmt::format("--{} {}", option.name, option.value_name);
    std::string right = option.help;
    if (!option.choices.empty()) right += fmt::format(": {}", fmt::join(option.choices, ", "));
    if (option.required) {
      right += " (required)";
    } else if (!option.default_text.empty()) {
      right +=
          fmt::format(" [{}]", option.value_name.empty() && option.default_text == "true" ? "on"
                               : option.value_name.empty()                                ? "off"
                                                           : option.default_text);
    }
    line(left, right);
  }
  text += "\n";
  if (std::any_of(options_.begin(), options_.end(), [](const Option& o) { return o.in_config; })) {
    line("-c, --config FILE", "read options from FILE (key = value); flags win");
  }
  line("-h, --help", "print this text");
  if (!example_.empty()) text += fmt::format("\nExample:\n  {}\n", example_);
  return text;
}

std::vector<std::pair<std::string, std::string>> Options::values() const {
  std::vector<std::pair<std::string, std::string>> values;
  for (const Option& option : options_) {
    if (option.in_config) values.emplace_back(option.name, option.get());
  }
  return values;
}

std::string Options::to_config(bool by_origin) const {
  std::string text;
  const auto list = [&](auto&& wanted) {
    for (const Option& option : options_) {
      if (option.in_config && wanted(option))
        text += fmt::format("{} = {}\n", option.name, to_config_value(option.get()));
    }
  };
  if (!by_origin) {
    list([](const Option&) { return true; });
    return text;
  }
  for (const Origin origin :
       {Origin::flag, Origin::environment, Origin::file, Origin::default_value}) {
    text += fmt::format("# {}\n", to_string(origin));
    list([origin](const Option& option) { return option.origin == origin; });
  }
  return text;
}

}  // namespace weft::apps
