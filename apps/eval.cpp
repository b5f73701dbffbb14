#include <cmath>
#include <iostream>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "weft/tensor/parallel.h"

#include "commands.h"
#include "common/data.h"
#include "common/evaluation.h"
#include "common/exit_code.h"
#include "common/rows.h"
#include "common/run.h"

namespace weft::apps {
namespace {

void print(const nlohmann::ordered_json& result, const std::string& format) {
  if (format == "json") {
    std::cout << to_json_text(result);
  } else if (format == "csv") {
    std::cout << to_csv(result);
  } else {
    for (const auto& [key, value] : result.items()) {
      std::cout << fmt::format("{:<16}{}\n", key,
                               value.is_string() ? value.get<std::string>() : value.dump());
    }
  }
}

}  // namespace

int evaluate(const std::vector<std::string>& arguments) {
  std::string run_path;
  std::string data_path;
  std::vector<std::string> suites = {"loss"};
  std::string format = "text";
  double max_bits_per_byte = 0;
  int64_t max_sequences = -1;
  int64_t batch_size = 0;
  int64_t seq_len = 0;
  int64_t threads = 0;
  Console::Settings messages;
  Options options("eval", "Measures a trained model on held-out data.",
                  "weft eval --run runs/a --suite loss --format json");
  options.add("run", &run_path, "run folder or checkpoint").required().not_in_config();
  options.add("suite", &suites, "what to measure: loss").not_in_config();
  options
      .add("data", &data_path,
           "other data than the run's; its held-out split, or all of it, is scored")
      .not_in_config();
  options
      .add("max-sequences", &max_sequences, "score the first sequences alone; -1 all",
           {-1, 1LL << 40})
      .not_in_config();
  options.add("batch-size", &batch_size, "sequences at a time; 0 means the run's", {0, 1 << 20})
      .not_in_config();
  options.add("seq-len", &seq_len, "tokens of a sequence; 0 means the run's", {0, 1 << 24})
      .not_in_config();
  options
      .add("max-bits-per-byte", &max_bits_per_byte, "exit with 3 above this; 0 checks nothing",
           {0, 1e9})
      .not_in_config();
  options.add("format", &format, "of the result on stdout", {"text", "csv", "json"})
      .not_in_config();
  options.add("threads", &threads, "threads; 0 means OMP_NUM_THREADS, else all cores", {0, 4096})
      .not_in_config();
  messages.add_to(options);
  if (!options.parse(arguments)) return kDone;
  for (const std::string& suite : suites) {
    if (suite != "loss")
      throw UsageError(fmt::format("--suite: '{}' is unknown; allowed is loss", suite));
  }
  if (threads > 0) set_num_threads(static_cast<int>(threads));

  Console console(messages);
  LoadedRun run = load_run(run_path, console);
  const bool own_data = data_path.empty();
  const Data data = open_data(own_data ? run.config.data : data_path, run.config.tokenizer,
                              run.config.valid_fraction, run.config.seed);
  if (data.tokenizer->to_json() != run.tokenizer->to_json()) {
    throw ConfigError(fmt::format(
        "eval: '{}' has another tokenizer ({} of {} tokens) than the run ({} of {})",
        own_data ? run.config.data : data_path, data.tokenizer->name(),
        data.tokenizer->vocab_size(), run.tokenizer->name(), run.tokenizer->vocab_size()));
  }
  const auto source = data.valid != nullptr ? data.valid : data.train;
  if (source->size() == io::kEndless && max_sequences < 0) max_sequences = 256;
  const LossReport report =
      evaluate_loss(*run.model, source, *run.tokenizer,
                    {.batch_size = batch_size > 0 ? batch_size : run.config.batch_size,
                     .seq_len = seq_len > 0 ? seq_len : run.config.seq_len,
                     .max_sequences = max_sequences});
  print({{"suite", "loss"},
         {"loss", report.loss},
         {"perplexity", report.perplexity},
         {"bits_per_byte", report.bits_per_byte},
         {"tokens", report.tokens},
         {"bytes", report.bytes},
         {"data", source->name()},
         {"checkpoint", run.checkpoint.string()},
         {"step", run.steps_done}},
        format);
  if (!std::isfinite(report.loss)) {
    console.error(fmt::format("the loss of {} is {}", run.checkpoint.string(), report.loss));
    return kCheckFailed;
  }
  if (max_bits_per_byte > 0 && report.bits_per_byte > max_bits_per_byte) {
    console.error(fmt::format("{:.4f} bits per byte exceed --max-bits-per-byte {}",
                              report.bits_per_byte, max_bits_per_byte));
    return kCheckFailed;
  }
  return kDone;
}

}  // namespace weft::apps
