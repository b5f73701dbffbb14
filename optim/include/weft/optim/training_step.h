#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "weft/autograd/variable.h"
#include "weft/optim/loss_scaler.h"
#include "weft/optim/optimizer.h"
#include "weft/tensor/generator.h"
#include "weft/tensor/graph.h"

namespace weft::optim {

/// What one forward pass takes.
struct MicroBatch {
  Tensor inputs;
  Tensor targets;
  int64_t scored = 0;  ///< targets that count in the loss
};

struct TrainingStepOptions {
  double grad_clip = 0;  ///< largest global gradient norm; 0 clips nothing
  /// On a GPU, record the work of the second step as a CUDA graph and replay it from then on, which
  /// frees the host from hundreds of launches a step.
  bool use_graph = true;
  /// Multiplies the loss, for activations of f16; must outlive the steps. A step whose gradients
  /// overflow changes nothing but the scale.
  LossScaler* loss_scaler = nullptr;
  /// The random streams that the loss draws from; must outlive the steps. A replayed step draws the
  /// numbers that it would draw without a graph. With a loss that draws from others, no step is
  /// recorded.
  std::vector<Generator*> generators{};
};

/// A whole step of training: forward and backward over micro-batches, clipping, optimizer. On a GPU
/// the host waits once, for the loss at the end.
class TrainingStep {
 public:
  /// The sum over the scored targets of their losses, times `scale`: a rank-0 f32 tensor on the
  /// device of the parameters. Called anew for every recording, and for every step that is not
  /// replayed.
  using Loss = std::function<autograd::Variable(const Tensor& inputs, const Tensor& targets,
                                                const Tensor& scale)>;

  /// `optimizer` must outlive the object. Batches are moved to `device`.
  TrainingStep(Optimizer& optimizer, Device device, Loss loss, TrainingStepOptions options = {});

  struct Result {
    double loss = 0;       ///< mean over the scored targets of all micro-batches
    double grad_norm = 0;  ///< of its gradient, before clipping
    bool updated = false;  ///< whether the parameters were changed
  };
  /// One step over these micro-batches, the same as one over their union; all steps of an object
  /// have as many, of the same shapes. Where the loss or the norm is not finite, parameters and
  /// optimizer state stay as they were; gradients are kept in any case. Without a scored target
  /// nothing happens. Throws ShapeError on other shapes than before.
  Result run(double lr, std::span<const MicroBatch> micro_batches);

  /// Whether steps are replayed now.
  bool is_replayed() const { return graph_.has_value() && graph_->captured(); }
  /// Why steps could not be recorded; empty where they could or nobody tried.
  const std::string& graph_refusal() const { return graph_refusal_; }

 private:
  void load(std::span<const MicroBatch> micro_batches);
  void compute();
  void record();
  std::vector<const void*> parameter_places() const;
  std::vector<uint64_t> seeds() const;

  Optimizer& optimizer_;
  const Device device_;
  const Loss loss_;
  const TrainingStepOptions options_;

  // What a recorded step reads and writes, at addresses that stay.
  std::vector<MicroBatch> batches_;
  Tensor scale_;    // loss scale / scored targets
  Tensor outcome_;  // f64 [2]: loss and norm

  std::optional<Graph> graph_;
  std::vector<const void*> recorded_places_;  // where the recording found the parameters
  std::vector<uint64_t> recorded_seeds_;      // of the generators, fixed in the recording
  bool warm_ = false;  // a step ran, so that libraries have chosen their kernels
  std::string graph_refusal_;
};

}  // namespace weft::optim
