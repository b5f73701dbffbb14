#include "bench.h"

#include <iostream>

#include <fmt/format.h>

#include "commands.h"
#include "common/exit_code.h"
#include "common/options.h"

namespace weft::apps {
namespace {

struct Benchmark {
  const char* name;
  const char* summary;
  int (*run)(const std::vector<std::string>& arguments);
};

constexpr Benchmark kBenchmarks[] = {
    {"step", "a whole training step", &bench_step},
    {"decode", "greedy decoding, against what the memory's speed allows", &bench_decode},
    {"attention", "attention layers: forward, backward and decoding at several lengths",
     &bench_attention_layers},
};

std::string help() {
  std::string text = "Times parts of Weft.\n\nUsage: weft bench NAME [options]\n\n";
  for (const Benchmark& benchmark : kBenchmarks)
    text += fmt::format("  {:<12}{}\n", benchmark.name, benchmark.summary);
  return text + "\nweft bench NAME --help shows the options.\n";
}

}  // namespace

int bench(const std::vector<std::string>& arguments) {
  std::vector<std::string> names;
  for (const Benchmark& benchmark : kBenchmarks) names.emplace_back(benchmark.name);
  const std::string known = fmt::format("known are {}", fmt::join(names, ", "));
  if (arguments.empty()) throw UsageError("bench: nothing to time given; " + known);
  if (arguments[0] == "--help" || arguments[0] == "-h") {
    std::cout << help();
    return kDone;
  }
  for (const Benchmark& benchmark : kBenchmarks) {
    if (arguments[0] == benchmark.name)
      return benchmark.run({arguments.begin() + 1, arguments.end()});
  }
  throw UsageError(fmt::format("bench: '{}' is unknown; {}", arguments[0], known));
}

}  // namespace weft::apps
