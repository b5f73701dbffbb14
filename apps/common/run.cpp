#include "common/run.h"

#include <algorithm>

#include <fmt/format.h>

#include "weft/io/atomic_file.h"
#include "weft/io/report.h"
#include "weft/tensor/check.h"

#include "common/run_plan.h"

namespace weft::apps {
namespace {

namespace fs = std::filesystem;

/// Keys that decide the shape of the saved tensors or their meaning: a resume must not change them.
constexpr const char* kModelKeys[] = {
    "n-layers",  "d-model",       "n-heads",   "n-kv-heads",     "d-ff",
    "attention", "rope-theta",    "norm-eps",  "tie-embeddings", "attention-schedule",
    "optimizer", "attention-opt", "vocab-size"};

std::vector<std::pair<std::string, std::string>> config_values(const std::string& text,
                                                               const std::string& source) {
  TrainConfig config;
  Options options("train", "", "");
  config.add_to(options);
  options.parse_config(text, source);
  return options.values();
}

std::string loss_scaler_entry(const std::string& name) {
  return "loss_scaler." + name;
}

/// Checkpoint names have no slashes: "model.norm.weight/exp_avg" becomes
/// "optimizer.model.norm.weight.exp_avg".
std::string optimizer_entry(const std::string& name) {
  std::string entry = "optimizer." + name;
  std::replace(entry.begin(), entry.end(), '/', '.');
  return entry;
}

/// Model tensors keep their names under "weights", since Hugging Face's start with "model."
/// themselves or "lm_head.".
std::string model_entry(const std::string& name) {
  return "weights." + name;
}

template <class EntryName>
StateDict read_state(const io::CheckpointReader& reader, const StateDict& wanted,
                     EntryName&& entry_name) {
  StateDict state;
  for (const NamedTensor& named : wanted)
    state.push_back({named.name, reader.tensor(entry_name(named.name))});
  return state;
}

/// The newest intact checkpoint of a folder, or the file itself.
std::optional<io::CheckpointReader> open_checkpoint(const fs::path& path, Console& console) {
  if (!fs::is_directory(path)) return io::CheckpointReader(path);
  const io::RunFolder run(path);
  const fs::path folder = run.has_run() ? run.checkpoints().path() : path;
  auto loaded = io::CheckpointFolder(folder).newest();
  if (!loaded) return std::nullopt;
  for (const std::string& notice : loaded->notices) console.warn(notice);
  return std::move(loaded->reader);
}

void check_same_model(const std::string& saved, const std::string& current,
                      const std::string& source) {
  const auto old_values = config_values(saved, source);
  const auto new_values = config_values(current, "the command line");
  std::string differences;
  for (size_t i = 0; i < old_values.size(); ++i) {
    const auto& [key, value] = old_values[i];
    if (std::find(std::begin(kModelKeys), std::end(kModelKeys), key) == std::end(kModelKeys))
      continue;
    if (value == new_values[i].second) continue;
    differences += fmt::format("{}{} ('{}' saved, '{}' given)", differences.empty() ? "" : ", ",
                               key, value, new_values[i].second);
  }
  WEFT_CHECK(differences.empty(), ConfigError,
             "resume: {} is of another model: {}; --resume never starts anew", source, differences);
}

}  // namespace

RunWriter::RunWriter(const TrainConfig& config) : config_(config), folder_(config.out_dir) {
  WEFT_CHECK(config.resume == "auto" || config.resume == "never" || fs::exists(config.resume),
             IoError, "--resume: '{}' does not exist; allowed are auto, never and a checkpoint",
             config.resume);
  folder_.create();
  lock_.emplace(folder_);
}

bool RunWriter::reports_to(const std::string& target) const {
  return std::find(config_.report_to.begin(), config_.report_to.end(), target) !=
         config_.report_to.end();
}

bool RunWriter::resume(RunState& state, const std::string& config_text,
                       const io::Tokenizer& tokenizer, Console& console) {
  if (config_.resume == "never") return false;
  const bool automatic = config_.resume == "auto";
  std::optional<io::CheckpointReader> reader;
  if (automatic) {
    if (folder_.has_run()) reader = open_checkpoint(folder_.path(), console);
    if (!reader) return false;
  } else {
    reader = open_checkpoint(config_.resume, console);
    WEFT_CHECK(reader, IoError, "--resume: there is no checkpoint in '{}'", config_.resume);
  }
  const std::string source = fmt::format("'{}'", reader->path().string());
  const std::string saved_config = reader->text("config");
  check_same_model(saved_config, config_text, source);
  WEFT_CHECK(reader->text("tokenizer") == tokenizer.to_json(), ConfigError,
             "resume: {} was trained with another tokenizer than that of --data {}", source,
             config_.data);

  StateDict model = read_state(*reader, state.model.state_dict(), model_entry);
  StateDict optimizer = read_state(*reader, state.optimizer.state_dict(), optimizer_entry);
  StateDict scaler;
  // A run of another type has none, so that this one starts with a fresh scale.
  const bool has_scaler = state.loss_scaler != nullptr && reader->has(loss_scaler_entry("scale"));
  if (has_scaler) scaler = read_state(*reader, state.loss_scaler->state_dict(), loss_scaler_entry);
  state.model.load_state_dict(model);
  state.optimizer.load_state_dict(optimizer);
  if (has_scaler) state.loss_scaler->load_state_dict(scaler);
  state.dropout.set_state(reader->generator("dropout"));
  state.steps_done = reader->get_int("steps_done");
  console.info(
      fmt::format("resumed after step {} from {}", state.steps_done, reader->path().string()));
  return true;
}

void RunWriter::begin(int64_t steps_done, const std::string& config_text,
                      const io::Tokenizer& tokenizer) {
  folder_.write_config(config_text);
  io::write_file_atomically(folder_.path() / "tokenizer.json", tokenizer.to_json());
  // The report is drawn from the metrics, so it needs them as well.
  if (reports_to("csv") || reports_to("html")) {
    metrics_.emplace(folder_.metrics(), steps_done > 0 ? steps_done : -1);
  }
  if (reports_to("tensorboard")) {
    events_.emplace(folder_.path(), steps_done > 0 ? steps_done + 1 : 0);
    events_->text("config", "```\n" + config_text + "```", steps_done);
  }
}

void RunWriter::add_metrics(const io::MetricValues& values) {
  pending_.insert(pending_.end(), values.begin(), values.end());
}

void RunWriter::flush_metrics(int64_t step) {
  if (metrics_) metrics_->write(step, pending_);
  if (events_) {
    for (const auto& [tag, value] : pending_) events_->scalar(tag, value, step);
  }
  pending_.clear();
}

void RunWriter::log_sample(int64_t step, const std::string& text) {
  folder_.append_sample(step, text);
  if (events_) events_->text("sample", "```\n" + text + "\n```", step);
}

std::string RunWriter::save(const RunState& state, const std::string& config_text,
                            const io::Tokenizer& tokenizer) {
  const io::CheckpointFolder checkpoints = folder_.checkpoints();
  checkpoints.save(state.steps_done, config_.keep_checkpoints, [&](io::CheckpointWriter& writer) {
    writer.add_int("steps_done", state.steps_done);
    writer.add_text("config", config_text);
    writer.add_text("tokenizer", tokenizer.to_json());
    writer.add_generator("dropout", state.dropout.state());
    for (const auto& [name, tensor] : state.model.state_dict())
      writer.add(model_entry(name), tensor);
    for (const auto& [name, tensor] : state.optimizer.state_dict())
      writer.add(optimizer_entry(name), tensor);
    if (state.loss_scaler == nullptr) return;
    for (const auto& [name, tensor] : state.loss_scaler->state_dict())
      writer.add(loss_scaler_entry(name), tensor);
  });
  return checkpoints.path_of(state.steps_done).string();
}

void RunWriter::write_report(const std::vector<std::pair<std::string, std::string>>& facts) {
  folder_.write_facts(facts);
  if (reports_to("html")) io::write_report(folder_, facts);
}

LoadedRun load_run(const fs::path& path, Device device, Console& console) {
  WEFT_CHECK(fs::exists(path), IoError, "run '{}' does not exist", path.string());
  const std::optional<io::CheckpointReader> reader = open_checkpoint(path, console);
  WEFT_CHECK(reader, IoError, "run '{}' has no checkpoint", path.string());
  LoadedRun run;
  run.checkpoint = reader->path();
  run.steps_done = reader->get_int("steps_done");
  Options options("train", "", "");
  run.config.add_to(options);
  try {
    options.parse_config(reader->text("config"), run.checkpoint.string());
  } catch (const UsageError& error) {
    throw IoError(error.what());  // not of the command line
  }
  run.tokenizer = io::parse_tokenizer(reader->text("tokenizer"), run.checkpoint.string());
  run.model = run.config.model.make_model(vocab_size_of(run.config, *run.tokenizer),
                                          run.config.seed, device);
  run.model->load_state_dict(read_state(*reader, run.model->state_dict(), model_entry));
  run.model->eval();
  return run;
}

}  // namespace weft::apps
