#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "weft/io/loader.h"
#include "weft/nn/decoder.h"
#include "weft/optim/optimizer.h"
#include "weft/optim/schedule.h"
#include "weft/optim/training_step.h"
#include "weft/tensor/error.h"

#include "common/options.h"

namespace weft::apps {

/// How parameters are changed, as given on the command line.
struct OptimizerOptions {
  std::string optimizer = "adamw";
  double lr = 1e-3;
  double min_lr = 1e-4;
  std::string lr_schedule = "cosine";
  int64_t warmup_steps = 20;
  int64_t decay_steps = 0;
  double weight_decay = 0.1;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double momentum = 0.95;
  double grad_clip = 1.0;

  void add_to(Options& options);
  std::unique_ptr<optim::Optimizer> make_optimizer(const nn::Module& model) const;
  /// The schedule of `lr`, for a run of max_steps.
  optim::Schedule make_schedule(int64_t max_steps) const;
};

/// Loss or gradient that is not finite. The text names the step and the first bad tensor.
class NonFiniteError : public Error {
 public:
  using Error::Error;
};

/// Steps of a decoder's training: optim::TrainingStep with a schedule, and with a name for what
/// went wrong.
class TrainingStep {
 public:
  /// All must outlive the object. `generator` is the stream of dropout; `loss_scaler` may be null.
  TrainingStep(nn::DecoderLM& model, optim::Optimizer& optimizer, const optim::Schedule& schedule,
               double grad_clip, Generator& generator, optim::LossScaler* loss_scaler = nullptr);

  struct Result {
    double loss = 0;       ///< mean over the scored tokens of all micro-batches, in nats
    double grad_norm = 0;  ///< before clipping
    double lr = 0;
  };
  /// Step number `step` over these micro-batches: the same as one step over their union. Throws
  /// NonFiniteError, with the parameters unchanged. Gradients that overflow f16 are no error while
  /// the loss scale can give way: the norm is then not finite, and the parameters are unchanged.
  Result run(int64_t step, const std::vector<io::Batch>& micro_batches);

  /// Whether steps are replayed from a CUDA graph now.
  bool is_replayed() const { return step_.is_replayed(); }
  /// Why steps could not be recorded as a CUDA graph; empty where they could or nobody tried.
  const std::string& graph_refusal() const { return step_.graph_refusal(); }

 private:
  [[noreturn]] void report_loss(int64_t step, double loss, const std::vector<io::Batch>& batches);
  [[noreturn]] void report_gradient(int64_t step, double grad_norm);

  nn::DecoderLM& model_;
  optim::Optimizer& optimizer_;
  const optim::Schedule& schedule_;
  const optim::LossScaler* loss_scaler_;
  optim::TrainingStep step_;
};

}  // namespace weft::apps
