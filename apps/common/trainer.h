#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "weft/io/loader.h"
#include "weft/nn/decoder.h"
#include "weft/optim/loss_scaler.h"
#include "weft/optim/optimizer.h"
#include "weft/optim/schedule.h"

#include "common/console.h"
#include "common/data.h"
#include "common/evaluation.h"
#include "common/run.h"
#include "common/run_plan.h"
#include "common/train_config.h"
#include "common/training_step.h"

namespace weft::apps {

/// A training run: data, model, optimizer and run folder, from the first step (or the one after a
/// checkpoint) to the last.
class Trainer {
 public:
  /// Builds the model. `config_text` is saved as config.ini. Nothing is written yet.
  Trainer(RunPlan plan, std::string config_text, Console& console);

  /// Trains to the end, or until a signal asks for a stop (while a StopSignals lives). Returns an
  /// exit code. Throws NonFiniteError.
  int run();

 private:
  using Clock = std::chrono::steady_clock;

  RunState state();
  std::vector<io::Batch> next_batches();
  void note_graph_refusal(const TrainingStep& step);
  void log_step(const TrainingStep::Result& result, double seconds);
  void evaluate();
  void sample();
  void save();
  void write_report();

  TrainConfig config_;
  std::string config_text_;
  Console& console_;
  Data data_;
  Device device_;
  std::unique_ptr<nn::DecoderLM> model_;
  std::unique_ptr<optim::Optimizer> optimizer_;
  std::optional<optim::LossScaler> loss_scaler_;  // for activations of f16
  optim::Schedule schedule_;
  Generator dropout_generator_;
  io::Loader loader_;
  std::optional<RunWriter> run_;
  int64_t steps_done_ = 0;
  double product_rate_ = 0;  // FLOP/s of a large matrix product here, what 100 % mfu means
  bool noted_graph_refusal_ = false;
  double first_step_seconds_ = 0;  // from the start of the program, of this process
  double timed_seconds_ = 0;
  int64_t timed_steps_ = 0;
};

}  // namespace weft::apps
