#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "weft/io/loader.h"
#include "weft/nn/decoder.h"
#include "weft/optim/optimizer.h"
#include "weft/optim/schedule.h"
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

/// Forward, backward, clipping and one optimizer step.
class TrainingStep {
 public:
  /// All must outlive the object. `generator` is the stream of dropout.
  TrainingStep(nn::DecoderLM& model, optim::Optimizer& optimizer, const optim::Schedule& schedule,
               double grad_clip, Generator& generator)
      : model_(model),
        optimizer_(optimizer),
        schedule_(schedule),
        grad_clip_(grad_clip),
        generator_(generator) {}

  struct Result {
    double loss = 0;       ///< mean over the scored tokens of all micro-batches, in nats
    double grad_norm = 0;  ///< before clipping
    double lr = 0;
  };
  /// Step number `step` over these micro-batches: the same as one step over their union. Throws
  /// NonFiniteError, with the parameters unchanged.
  Result run(int64_t step, const std::vector<io::Batch>& micro_batches);

 private:
  [[noreturn]] void report_non_finite(int64_t step, const std::string& what,
                                      const io::Batch& batch);

  nn::DecoderLM& model_;
  optim::Optimizer& optimizer_;
  const optim::Schedule& schedule_;
  double grad_clip_;
  Generator& generator_;
};

}  // namespace weft::apps
