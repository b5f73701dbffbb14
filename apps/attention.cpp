#include <iostream>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "weft/attention/registry.h"

#include "commands.h"
#include "common/exit_code.h"
#include "common/options.h"

namespace weft::apps {
namespace {

nlohmann::ordered_json to_json(const attention::MechanismInfo& mechanism) {
  nlohmann::ordered_json options = nlohmann::ordered_json::array();
  for (const attention::OptionInfo& option : mechanism.options) {
    options.push_back(
        {{"name", option.name}, {"default", option.default_value}, {"help", option.help}});
  }
  return {{"name", mechanism.name},
          {"summary", mechanism.summary},
          {"paper", mechanism.paper},
          {"options", options}};
}

void print(const attention::MechanismInfo& mechanism) {
  std::cout << mechanism.name << ": " << mechanism.summary << "\n  " << mechanism.paper << "\n";
  if (mechanism.options.empty()) {
    std::cout << "  no options besides --n-heads, --n-kv-heads and --rope-theta\n";
    return;
  }
  std::cout << "  options (--attention-opt NAME=VALUE):\n";
  for (const attention::OptionInfo& option : mechanism.options) {
    std::cout << fmt::format("    {:<20}{} [{}]\n", option.name, option.help, option.default_value);
  }
}

}  // namespace

int attention(const std::vector<std::string>& arguments) {
  std::string format = "text";
  Options options("attention", "Lists the attention mechanisms, or shows one with its options.",
                  "weft attention full", "[NAME]");
  options.add("format", &format, "of the result on stdout", {"text", "json"}).not_in_config();
  if (!options.parse(arguments)) return kDone;
  if (options.positional().size() > 1) throw UsageError("attention: one name at a time");
  if (!options.positional().empty()) {
    const attention::MechanismInfo& mechanism =
        attention::find_mechanism(options.positional().front());
    if (format == "json") {
      std::cout << to_json(mechanism).dump(2) << "\n";
    } else {
      print(mechanism);
    }
    return kDone;
  }
  nlohmann::ordered_json all = nlohmann::ordered_json::array();
  for (const attention::MechanismInfo& mechanism : attention::mechanisms()) {
    all.push_back(to_json(mechanism));
    if (format == "text")
      std::cout << fmt::format("{:<10}{} ({})\n", mechanism.name, mechanism.summary,
                               mechanism.paper);
  }
  if (format == "json") std::cout << all.dump(2) << "\n";
  return kDone;
}

}  // namespace weft::apps
