#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "weft/io/checkpoint.h"
#include "weft/io/metrics.h"
#include "weft/io/run_folder.h"
#include "weft/io/tensorboard.h"
#include "weft/io/tokenizer.h"
#include "weft/nn/decoder.h"
#include "weft/optim/loss_scaler.h"
#include "weft/optim/optimizer.h"
#include "weft/tensor/generator.h"

#include "common/console.h"
#include "common/train_config.h"

namespace weft::apps {

/// Everything of a run that a resume needs besides its config.
struct RunState {
  int64_t steps_done = 0;
  nn::DecoderLM& model;
  optim::Optimizer& optimizer;
  optim::LossScaler* loss_scaler;  ///< null where losses are not scaled
  Generator& dropout;
};

/// The run folder of a training run, for the one process that writes it: config.ini,
/// tokenizer.json, train.log, metrics.csv, TensorBoard events, samples.txt, report.html and
/// checkpoints/.
class RunWriter {
 public:
  /// Makes the folder and takes its lock. Throws IoError where it cannot be written or another
  /// process trains in it.
  explicit RunWriter(const TrainConfig& config);

  const io::RunFolder& folder() const { return folder_; }

  /// Loads what --resume asks for into `state`; false when the run starts anew. Throws ConfigError,
  /// listing the keys that differ, when the checkpoint is of another model or tokenizer, and
  /// IoError when it is damaged.
  bool resume(RunState& state, const std::string& config_text, const io::Tokenizer& tokenizer,
              Console& console);

  /// Saves config and tokenizer and opens the metrics, continuing after `steps_done` steps.
  void begin(int64_t steps_done, const std::string& config_text, const io::Tokenizer& tokenizer);
  /// Collects values of a step; flush_metrics() writes them as one row.
  void add_metrics(const io::MetricValues& values);
  void flush_metrics(int64_t step);
  void log_sample(int64_t step, const std::string& text);
  /// Saves a checkpoint and returns its path. Throws IoError; older checkpoints are then untouched.
  std::string save(const RunState& state, const std::string& config_text,
                   const io::Tokenizer& tokenizer);
  /// Writes these facts ("parameters", "1.2M") as facts.json, and report.html where --report-to
  /// asks for it.
  void write_report(const std::vector<std::pair<std::string, std::string>>& facts);

 private:
  bool reports_to(const std::string& target) const;

  const TrainConfig& config_;
  io::RunFolder folder_;
  std::optional<io::RunLock> lock_;
  std::optional<io::MetricsWriter> metrics_;
  std::optional<io::EventWriter> events_;
  io::MetricValues pending_;
};

/// A trained model read from a run folder or checkpoint.
struct LoadedRun {
  std::filesystem::path checkpoint;
  int64_t steps_done = 0;
  TrainConfig config;
  std::shared_ptr<const io::Tokenizer> tokenizer;
  std::unique_ptr<nn::DecoderLM> model;
};

/// `path` is a run folder, a checkpoint folder or a checkpoint; of a folder the newest intact
/// checkpoint is taken, and `console` told of damaged ones. The model is put on `device`, whatever
/// it was trained on. Throws IoError.
LoadedRun load_run(const std::filesystem::path& path, Device device, Console& console);

}  // namespace weft::apps
