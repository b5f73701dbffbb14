#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace weft::apps {

/// A wrong command line or config file: one line for the user and exit code 2.
class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Where the value of an option came from; later ones win.
enum class Origin { default_value, file, environment, flag };

/// Allowed values of a number, both ends included.
struct Range {
  double min = -1e300;
  double max = 1e300;
};

/// The options of one subcommand. Each is a flag (--seq-len 256), a key of a config file (seq-len =
/// 256) and, where given, an environment variable, bound to a variable of the program that holds
/// the default.
///
/// Booleans are --name / --no-name. Integers take sizes such as 64k and 1M (powers of 1024). Flags
/// are never guessed from prefixes; an unknown one is a UsageError that offers the nearest name.
class Options {
 public:
  /// `positional` names the arguments without a flag in the usage line, such as "PATH"; empty when
  /// there are none.
  Options(std::string command, std::string summary, std::string example,
          std::string positional = "");

  /// Starts a titled group in --help.
  Options& group(std::string title);

  Options& add(std::string name, bool* target, std::string help);
  Options& add(std::string name, int64_t* target, std::string help, Range range = {});
  Options& add(std::string name, uint64_t* target, std::string help);
  Options& add(std::string name, double* target, std::string help, Range range = {});
  Options& add(std::string name, std::string* target, std::string help);
  /// A text out of `choices`.
  Options& add(std::string name, std::string* target, std::string help,
               std::vector<std::string> choices);
  /// May be given several times and as a comma-separated list.
  Options& add(std::string name, std::vector<std::string>* target, std::string help);

  // Properties of the option added last.
  Options& short_name(char letter);
  Options& environment(std::string variable);
  /// Concerns this call alone (--dry-run): not a config key and not saved.
  Options& not_in_config();
  Options& required();
  /// The flag may stand without a value and then means this one; a value follows an equals sign, as
  /// in --profile=FILE.
  Options& value_if_bare(std::string value);

  /// Config files made for `other` may be given to --config: its keys that are unknown here are
  /// passed over.
  Options& accept_config_of(const Options& other);

  /// Reads the arguments after the subcommand's name, and the file of --config. Returns false when
  /// --help was asked for (and printed to stdout). Throws UsageError.
  bool parse(const std::vector<std::string>& arguments);
  /// Reads only a config file, as a saved run has it: lines `key = value`, where a value may stand
  /// in double quotes, and comments from '#' or ';' at the start of a line. `source` names it in
  /// errors.
  void parse_config(const std::string& text, const std::string& source);

  const std::vector<std::string>& positional() const { return positional_values_; }
  Origin origin(std::string_view name) const;
  bool given(std::string_view name) const { return origin(name) != Origin::default_value; }

  std::string help() const;
  /// Config keys and their values as given, in order of declaration.
  std::vector<std::pair<std::string, std::string>> values() const;
  /// All config keys with their values: itself a valid config file. In order of declaration, or
  /// grouped by where the values came from.
  std::string to_config(bool by_origin = false) const;

 private:
  struct Option {
    std::string name;
    std::string help;
    std::string group;
    std::string value_name;  // empty for booleans
    std::string default_text;
    std::vector<std::string> choices;
    std::string environment;
    std::optional<std::string> bare_value;
    char short_name = 0;
    bool in_config = true;
    bool required = false;
    bool is_list = false;
    Origin origin = Origin::default_value;
    std::function<void(const std::string& text)>
        set;  // throws UsageError without the option's name
    std::function<std::string()> get;
  };
  Option& add_option(std::string name, std::string help, std::string value_name);
  Option* find(std::string_view name);
  const Option* find(std::string_view name) const;
  void assign(Option& option, const std::string& text, Origin origin,
              const std::string& shown_name);
  [[noreturn]] void unknown(const std::string& name, const std::string& where) const;
  void read_environment();

  std::string command_;
  std::string summary_;
  std::string example_;
  std::string positional_name_;
  std::string current_group_ = "Options";
  std::vector<Option> options_;
  std::vector<std::string> positional_values_;
  std::vector<std::string> ignored_keys_;  // of accept_config_of()
};

/// The entry of `known` closest to `name` by edit distance, or "" when none is close.
std::string nearest(std::string_view name, const std::vector<std::string>& known);

/// "64k" -> 65536. Throws UsageError.
int64_t parse_size(const std::string& text);

}  // namespace weft::apps
