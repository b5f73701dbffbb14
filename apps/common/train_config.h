#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/console.h"
#include "common/model_options.h"
#include "common/options.h"
#include "common/training_step.h"

namespace weft::apps {

/// Everything that `weft train` can be told. The resolved values are saved as config.ini in the run
/// folder and are read back from there by resume, eval and generate.
struct TrainConfig {
  // Data
  std::string data;
  std::string tokenizer = "bytes";
  int64_t vocab_size = 0;
  double valid_fraction = 0.05;
  std::string out_dir = "runs/latest";
  int64_t seq_len = 256;
  int64_t batch_size = 16;
  int64_t grad_accum_steps = 1;
  uint64_t seed = 1;

  ModelOptions model;
  OptimizerOptions optimizer;

  // Course of the run
  int64_t max_steps = 1000;
  int64_t log_every = 10;
  int64_t eval_every = 250;
  int64_t eval_sequences = 64;
  int64_t sample_every = -1;
  std::string sample_prompt = "The ";
  int64_t sample_tokens = 200;
  int64_t save_every = 250;
  int64_t keep_checkpoints = 3;
  std::string resume = "auto";
  std::vector<std::string> report_to = {"csv", "tensorboard", "html"};

  // Machine
  std::string device = "auto";
  int64_t threads = 0;
  bool deterministic = false;
  std::string attention_backend = "automatic";

  // This call alone
  bool dry_run = false;
  bool print_config = false;
  std::string profile;  ///< as ProfileRun takes it
  Console::Settings console;

  void add_to(Options& options);
  /// Rules that tie several options together. Throws ConfigError naming options and values, and
  /// DeviceError for a GPU that cannot be used.
  void validate() const;
};

}  // namespace weft::apps
