#include <csignal>
#include <cstdio>
#include <exception>
#include <iostream>
#include <new>
#include <string>
#include <vector>

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

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
  const char* less_memory = nullptr;  // what to change where memory is short
};

constexpr Command kCommands[] = {
    {"tokenize", "turn text into a token dataset", &tokenize},
    {"train", "train a decoder language model", &train,
     "a smaller --batch-size (with more --grad-accum-steps) or --seq-len, --recompute block and "
     "--dtype bf16 need less"},
    {"eval", "measure a trained model on held-out data", &evaluate,
     "a smaller --batch-size or --seq-len needs less"},
    {"generate", "continue a prompt", &generate,
     "a shorter prompt or fewer --max-new-tokens need less"},
    {"inspect", "show what a checkpoint, dataset or run folder holds", &inspect},
    {"report", "write a run's course as a page of Markdown with charts", &report},
    {"bench", "time training steps and attention layers", &bench,
     "a smaller --batch-size or --seq-len (of bench decode: --context) and --dtype bf16 need less"},
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

/// Adds what helps to the error of short memory.
int run(const Command& command, const std::vector<std::string>& arguments) {
  try {
    return command.run(arguments);
  } catch (const OutOfMemoryError& error) {
    if (command.less_memory == nullptr) throw;
    throw OutOfMemoryError(fmt::format("{}; {}", error.what(), command.less_memory));
  }
}

int run(const std::vector<std::string>& arguments) {
  if (arguments.empty()) throw UsageError("no command given; weft --help lists them");
  const std::string& name = arguments.front();
  if (name == "--help" || name == "-h" || name == "help") {
    fmt::print("{}", usage());
    return kDone;
  }
  if (name == "--version" || name == "-V") {
    fmt::print("weft {}\n{}\n", version(), compilers());
    return kDone;
  }
  std::vector<std::string> names;
  for (const Command& command : kCommands) {
    if (name == command.name) return run(command, {arguments.begin() + 1, arguments.end()});
    names.emplace_back(command.name);
  }
  const std::string close = nearest(name, names);
  throw UsageError(fmt::format("unknown command '{}'{}; weft --help lists them", name,
                               close.empty() ? "" : fmt::format(", did you mean '{}'", close)));
}

/// Opens what the caller closed of the standard streams, so that no data file gets the number of
/// one and messages land in it. A closed stdout stays one that cannot be written.
void keep_standard_streams() {
  for (const int descriptor : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (fcntl(descriptor, F_GETFD) >= 0) continue;
    // The lowest free number is this one.
    [[maybe_unused]] const int opened =
        open("/dev/null", descriptor == STDERR_FILENO ? O_WRONLY : O_RDONLY);
  }
}

/// One line, whatever the text quotes from a file or an argument.
void print_error(std::string text) {
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < ' ' || c == '\x7f') c = c == '\n' ? ' ' : '?';
  }
  // Not fmt::print(): it throws where stderr is a file on a full disk.
  std::fputs(fmt::format("weft: {}\n", text).c_str(), stderr);
}

/// False when not everything printed has reached stdout (a full disk).
bool flush_stdout() {
  return std::cout.flush().good() && std::fflush(stdout) == 0 && std::ferror(stdout) == 0;
}

int run_guarded(const std::vector<std::string>& arguments) {
  try {
    return run(arguments);
  } catch (const UsageError& error) {
    print_error(error.what());
    return kUsage;
  } catch (const ConfigError& error) {
    // Options that only the library can judge, such as head counts that do not divide.
    print_error(error.what());
    return kUsage;
  } catch (const std::bad_alloc&) {
    print_error("out of memory");
    return kFailed;
  } catch (const std::exception& error) {
    print_error(error.what());
    return kFailed;
  }
}

}  // namespace
}  // namespace weft::apps

int main(int argc, char** argv) {
  using namespace weft::apps;
  keep_standard_streams();
  std::signal(SIGXFSZ, SIG_IGN);  // a limit on file size is an error like a full disk
  const int code = run_guarded({argv + 1, argv + argc});
  if (flush_stdout() || code != kDone) return code;
  print_error("stdout cannot be written");
  return kFailed;
}
