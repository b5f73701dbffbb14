#include <cstdio>
#include <exception>
#include <new>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "weft/tensor/error.h"

#include "commands.h"
#include "common/exit_code.h"
#include "common/options.h"
#include "common/version.h"

namespace weft::apps {
namespace {

struct Command {
  const char* name;
  const char* summary;
  int (*run)(const std::vector<std::string>& arguments);
};

constexpr Command kCommands[] = {
    {"tokenize", "turn text into a token dataset", &tokenize},
    {"train", "train a decoder language model", &train},
    {"eval", "measure a trained model on held-out data", &evaluate},
    {"generate", "continue a prompt", &generate},
    {"inspect", "show what a checkpoint, dataset or run folder holds", &inspect},
    {"bench", "time training steps", &bench},
    {"attention", "list the attention mechanisms and their options", &attention},
};

std::string usage() {
  std::string text =
      "Weft trains small language models and compares attention mechanisms.\n\n"
      "Usage: weft COMMAND [options]\n\nCommands:\n";
  for (const Command& command : kCommands)
    text += fmt::format("  {:<12}{}\n", command.name, command.summary);
  return text +
         "\nweft COMMAND --help shows the options of a command; weft --version the version.\n";
}

int run(const std::vector<std::string>& arguments) {
  if (arguments.empty()) throw UsageError("no command given; weft --help lists them");
  const std::string& name = arguments.front();
  if (name == "--help" || name == "-h" || name == "help") {
    fmt::print("{}", usage());
    return kDone;
  }
  if (name == "--version" || name == "-V") {
    fmt::print("weft {}\n", version());
    return kDone;
  }
  std::vector<std::string> names;
  for (const Command& command : kCommands) {
    if (name == command.name) return command.run({arguments.begin() + 1, arguments.end()});
    names.emplace_back(command.name);
  }
  const std::string close = nearest(name, names);
  throw UsageError(fmt::format("unknown command '{}'{}; weft --help lists them", name,
                               close.empty() ? "" : fmt::format(", did you mean '{}'", close)));
}

}  // namespace
}  // namespace weft::apps

int main(int argc, char** argv) {
  using namespace weft::apps;
  try {
    return run({argv + 1, argv + argc});
  } catch (const UsageError& error) {
    fmt::print(stderr, "weft: {}\n", error.what());
    return kUsage;
  } catch (const weft::ConfigError& error) {
    // Options that only the library can judge, such as head counts that do not divide.
    fmt::print(stderr, "weft: {}\n", error.what());
    return kUsage;
  } catch (const std::bad_alloc&) {
    fmt::print(stderr, "weft: out of memory\n");
    return kFailed;
  } catch (const std::exception& error) {
    fmt::print(stderr, "weft: {}\n", error.what());
    return kFailed;
  }
}
