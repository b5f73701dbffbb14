#include <algorithm>
#include <charconv>
#include <cmath>
#include <iostream>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "weft/io/builtin_data.h"
#include "weft/tensor/parallel.h"

#include "commands.h"
#include "common/attention_log.h"
#include "common/data.h"
#include "common/evaluation.h"
#include "common/exit_code.h"
#include "common/machine.h"
#include "common/retrieval.h"
#include "common/rows.h"
#include "common/run.h"

namespace weft::apps {
namespace {

using Json = nlohmann::ordered_json;

struct Settings {
  std::string run;
  std::vector<std::string> suites = {"loss"};
  int64_t batch_size = 0;
  double min_accuracy = 0;
  std::string format = "text";
  int64_t threads = 0;
  // loss
  std::string data;
  int64_t max_sequences = -1;
  int64_t seq_len = 0;
  double max_bits_per_byte = 0;
  // recall and needle
  std::vector<std::string> lengths;
  std::vector<std::string> pairs;
  std::vector<std::string> depths = {"0", "25", "50", "75", "100"};
  int64_t gap = -1;
  int64_t digits = 0;
  int64_t keys = 0;
  int64_t documents = 32;
  uint64_t seed = 0;
  std::string device = "auto";
  std::string attention_backend = "automatic";
  Console::Settings messages;

  void add_to(Options& options) {
    options.add("run", &run, "run folder or checkpoint").required().not_in_config();
    options.add("suite", &suites, "what to measure: loss, recall, needle").not_in_config();
    options.add("batch-size", &batch_size, "sequences at a time; 0 means the run's", {0, 1 << 20})
        .not_in_config();
    options.add("format", &format, "of the result on stdout", {"text", "csv", "json"})
        .not_in_config();
    add_device_options(options, &device, &attention_backend, /*in_config=*/false);
    options.add("threads", &threads, "threads; 0 means OMP_NUM_THREADS, else all cores", {0, 4096})
        .not_in_config();
    messages.add_to(options);
    options.group("Held-out loss");
    options
        .add("data", &data,
             "other data than the run's; its held-out split, or all of it, is scored")
        .not_in_config();
    options
        .add("max-sequences", &max_sequences, "score the first sequences alone; -1 all",
             {-1, 1LL << 40})
        .not_in_config();
    options.add("seq-len", &seq_len, "tokens of a sequence; 0 means the run's", {0, 1 << 24})
        .not_in_config();
    options
        .add("max-bits-per-byte", &max_bits_per_byte, "exit with 3 above this; 0 checks nothing",
             {0, 1e9})
        .not_in_config();
    options.group("Recall and needle");
    options
        .add("lengths", &lengths,
             "tokens of a document; by default those of the run's data, for needle a quarter, a "
             "half and all of the run's seq-len")
        .not_in_config();
    options
        .add("pairs", &pairs, "recall: key-value pairs; by default the run's, its half and quarter")
        .not_in_config();
    options
        .add("gap", &gap, "recall: filler between pairs and queries; -1 means the run's",
             {-1, 1 << 24})
        .not_in_config();
    options.add("depths", &depths, "needle: places of the passkey in percent").not_in_config();
    options.add("digits", &digits, "needle: length of a passkey; 0 means the run's", {0, 16})
        .not_in_config();
    options
        .add("keys", &keys, "needle: passkeys in a document, one asked for; 0 means the run's",
             {0, io::kMaxNeedleKeys})
        .not_in_config();
    options.add("documents", &documents, "documents of a cell", {1, 1 << 24}).not_in_config();
    options.add("seed", &seed, "of the documents; training never sees them").not_in_config();
    options
        .add("min-accuracy", &min_accuracy,
             "exit with 3 when a suite's mean accuracy is below; 0 checks nothing", {0, 1})
        .not_in_config();
  }

  void check() const {
    for (const std::string& suite : suites) {
      constexpr const char* kSuites[] = {"loss", "recall", "needle"};
      if (std::find(std::begin(kSuites), std::end(kSuites), suite) == std::end(kSuites)) {
        throw UsageError(fmt::format("--suite: '{}' is unknown; allowed are {}", suite,
                                     fmt::join(kSuites, ", ")));
      }
    }
    if (suites.empty()) throw UsageError("--suite names nothing to measure");
  }
};

std::vector<int64_t> parse_sizes(const char* flag, const std::vector<std::string>& texts,
                                 int64_t most) {
  std::vector<int64_t> sizes;
  for (const std::string& text : texts) {
    int64_t size = 0;
    try {
      size = parse_size(text);
    } catch (const UsageError& error) {
      throw UsageError(fmt::format("--{}: {}", flag, error.what()));
    }
    if (size < 1 || size > most) {
      throw UsageError(
          fmt::format("--{}: {} is out of range; allowed is 1 to {}", flag, text, most));
    }
    sizes.push_back(size);
  }
  return sizes;
}

std::vector<double> parse_percents(const char* flag, const std::vector<std::string>& texts) {
  std::vector<double> percents;
  for (const std::string& text : texts) {
    double value = -1;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size() || !(value >= 0 && value <= 100)) {
      throw UsageError(fmt::format("--{}: '{}' is no percentage of 0 to 100", flag, text));
    }
    percents.push_back(value);
  }
  if (percents.empty()) throw UsageError(fmt::format("--{} names nothing", flag));
  return percents;
}

constexpr int64_t kLongest = 1 << 24;

Json measure_loss(const Settings& settings, LoadedRun& run) {
  const bool own_data = settings.data.empty();
  const Data data = open_data(own_data ? run.config.data : settings.data, run.config.tokenizer,
                              run.config.valid_fraction, run.config.seed);
  if (data.tokenizer->to_json() != run.tokenizer->to_json()) {
    throw ConfigError(fmt::format(
        "eval: '{}' has another tokenizer ({} of {} tokens) than the run ({} of {})",
        own_data ? run.config.data : settings.data, data.tokenizer->name(),
        data.tokenizer->vocab_size(), run.tokenizer->name(), run.tokenizer->vocab_size()));
  }
  const auto source = data.valid != nullptr ? data.valid : data.train;
  int64_t max_sequences = settings.max_sequences;
  if (source->size() == io::kEndless && max_sequences < 0) max_sequences = 256;
  const LossReport report = evaluate_loss(
      *run.model, source, *run.tokenizer,
      {.batch_size = settings.batch_size > 0 ? settings.batch_size : run.config.batch_size,
       .seq_len = settings.seq_len > 0 ? settings.seq_len : run.config.seq_len,
       .max_sequences = max_sequences});
  return {{"suite", "loss"},
          {"loss", report.loss},
          {"perplexity", report.perplexity},
          {"bits_per_byte", report.bits_per_byte},
          {"tokens", report.tokens},
          {"bytes", report.bytes},
          {"data", source->name()},
          {"checkpoint", run.checkpoint.string()},
          {"step", run.steps_done}};
}

RetrievalOptions retrieval_options(const Settings& settings, const LoadedRun& run) {
  return {.lengths = parse_sizes("lengths", settings.lengths, kLongest),
          .documents = settings.documents,
          .batch_size = settings.batch_size > 0 ? settings.batch_size : run.config.batch_size,
          .seed = settings.seed};
}

/// Mean accuracy and what was measured where, as one result.
Json retrieval_result(const char* suite, const Settings& settings, const LoadedRun& run,
                      Json cells) {
  double sum = 0;
  for (const Json& cell : cells) sum += cell.at("accuracy").get<double>();
  return {{"suite", suite},
          {"accuracy", sum / static_cast<double>(cells.size())},
          {"cells", std::move(cells)},
          {"documents", settings.documents},
          {"seed", settings.seed},
          {"checkpoint", run.checkpoint.string()},
          {"step", run.steps_done}};
}

Json measure_recall(const Settings& settings, LoadedRun& run) {
  const bool trained_on_it = io::builtin_name(run.config.data) == "recall";
  io::RecallOptions shape =
      trained_on_it ? io::parse_recall_options(run.config.data) : io::RecallOptions{};
  if (settings.gap >= 0) shape.gap = settings.gap;
  RetrievalOptions options = retrieval_options(settings, run);
  if (options.lengths.empty())
    options.lengths = {shape.spread < 0 ? run.config.seq_len + 1 : int64_t{0}};
  std::vector<int64_t> pairs = parse_sizes("pairs", settings.pairs, io::kMaxRecallKeys);
  if (pairs.empty()) {
    for (const int64_t count : {shape.pairs / 4, shape.pairs / 2, shape.pairs}) {
      if (count > 0) pairs.push_back(count);
    }
  }
  Json cells = Json::array();
  for (const RetrievalCell& cell :
       evaluate_recall(*run.model, *run.tokenizer, shape, pairs, options)) {
    cells.push_back({{"pairs", cell.pairs},
                     {"length", cell.length},
                     {"accuracy", cell.score.answer_accuracy()},
                     {"document_accuracy", cell.score.document_accuracy()},
                     {"answers", cell.score.answers}});
  }
  Json result = retrieval_result("recall", settings, run, std::move(cells));
  result["guessing"] = 1.0 / static_cast<double>(io::kRecallValues);
  return result;
}

Json measure_needle(const Settings& settings, LoadedRun& run) {
  const bool trained_on_it = io::builtin_name(run.config.data) == "needle";
  io::NeedleOptions shape =
      trained_on_it ? io::parse_needle_options(run.config.data) : io::NeedleOptions{};
  if (settings.digits > 0) shape.digits = settings.digits;
  if (settings.keys > 0) shape.keys = settings.keys;
  RetrievalOptions options = retrieval_options(settings, run);
  if (options.lengths.empty()) {
    const int64_t longest = run.config.seq_len + 1;
    io::NeedleOptions one = shape;
    one.asked = 1;
    for (const int64_t length : {longest / 4, longest / 2, longest}) {
      if (length == longest || length >= io::shortest_needle_document(one))
        options.lengths.push_back(length);
    }
  }
  Json cells = Json::array();
  for (const RetrievalCell& cell : evaluate_needle(
           *run.model, *run.tokenizer, shape, parse_percents("depths", settings.depths), options)) {
    cells.push_back({{"length", cell.length},
                     {"depth", cell.depth},
                     {"accuracy", cell.score.document_accuracy()},
                     {"digit_accuracy", cell.score.answer_accuracy()}});
  }
  return retrieval_result("needle", settings, run, std::move(cells));
}

/// Accuracy as a grid: a line for each value of `down`, a column for each of `across`.
std::string grid(const Json& cells, const char* down, const char* across) {
  std::vector<Json> rows;
  std::vector<Json> columns;
  for (const Json& cell : cells) {
    for (auto& [list, key] : {std::pair{&rows, down}, std::pair{&columns, across}}) {
      if (std::find(list->begin(), list->end(), cell.at(key)) == list->end())
        list->push_back(cell.at(key));
    }
  }
  std::vector<std::vector<std::string>> lines = {{fmt::format("{} \\ {}", down, across)}};
  for (const Json& column : columns) lines[0].push_back(fmt::format("{}", column.get<double>()));
  for (const Json& row : rows) {
    lines.push_back({fmt::format("{}", row.get<double>())});
    for (const Json& column : columns) {
      const auto cell = std::find_if(cells.begin(), cells.end(), [&](const Json& c) {
        return c.at(down) == row && c.at(across) == column;
      });
      lines.back().push_back(
          cell == cells.end() ? "-"
                              : fmt::format("{:.1f}%", 100 * cell->at("accuracy").get<double>()));
    }
  }
  return to_table(lines);
}

std::string to_text(const Json& result) {
  std::string text;
  for (const auto& [key, value] : result.items()) {
    if (key == "cells") continue;
    text +=
        fmt::format("{:<16}{}\n", key, value.is_string() ? value.get<std::string>() : value.dump());
  }
  if (result.at("suite") == "recall")
    return text + "\n" + grid(result.at("cells"), "pairs", "length");
  if (result.at("suite") == "needle")
    return text + "\n" + grid(result.at("cells"), "depth", "length");
  return text;
}

/// The cells of a retrieval suite as rows, or the one row of any other.
Json to_rows(const Json& result) {
  if (!result.contains("cells")) return result;
  Json rows = Json::array();
  for (const Json& cell : result.at("cells")) {
    Json row = {{"suite", result.at("suite")}};
    row.update(cell);
    for (const char* key : {"documents", "seed", "checkpoint", "step"}) row[key] = result.at(key);
    rows.push_back(std::move(row));
  }
  return rows;
}

void print(const Json& results, const std::string& format) {
  if (format == "json") {
    std::cout << to_json_text(results.size() == 1 ? results.front() : results);
    return;
  }
  bool first = true;
  for (const Json& result : results) {
    std::cout << (first ? "" : "\n")
              << (format == "csv" ? to_csv(to_rows(result)) : to_text(result));
    first = false;
  }
}

/// Tells what is wrong with a result; "" when nothing is.
std::string complaint(const Json& result, const Settings& settings) {
  if (!result.contains("loss")) {
    const double accuracy = result.at("accuracy");
    if (accuracy >= settings.min_accuracy) return "";
    return fmt::format("the {} accuracy of {:.4f} is below --min-accuracy {}",
                       result.at("suite").get<std::string>(), accuracy, settings.min_accuracy);
  }
  const double loss = result.at("loss");
  if (!std::isfinite(loss)) {
    return fmt::format("the loss of {} is {}", result.at("checkpoint").get<std::string>(), loss);
  }
  const double bits_per_byte = result.at("bits_per_byte");
  if (settings.max_bits_per_byte == 0 || bits_per_byte <= settings.max_bits_per_byte) return "";
  return fmt::format("{:.4f} bits per byte exceed --max-bits-per-byte {}", bits_per_byte,
                     settings.max_bits_per_byte);
}

}  // namespace

int evaluate(const std::vector<std::string>& arguments) {
  Settings settings;
  Options options("eval", "Measures a trained model on held-out data.",
                  "weft eval --run runs/a --suite loss,recall --format json");
  settings.add_to(options);
  if (!options.parse(arguments)) return kDone;
  settings.check();
  if (settings.threads > 0) set_num_threads(static_cast<int>(settings.threads));

  const Device device = resolve_device(settings.device);
  Console console(settings.messages);
  const AttentionLog attention(settings.attention_backend, console,
                               AttentionLog::Wanted::when_verbose);
  LoadedRun run = load_run(settings.run, device, console);
  Json results = Json::array();
  for (const std::string& suite : settings.suites) {
    results.push_back(suite == "loss"     ? measure_loss(settings, run)
                      : suite == "recall" ? measure_recall(settings, run)
                                          : measure_needle(settings, run));
  }
  print(results, settings.format);
  int code = kDone;
  for (const Json& result : results) {
    const std::string what = complaint(result, settings);
    if (what.empty()) continue;
    console.error(what);
    code = kCheckFailed;
  }
  return code;
}

}  // namespace weft::apps
