#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "weft/nn/decoder.h"
#include "weft/tensor/graph.h"
#include "weft/tensor/ops/decode_program.h"
#include "weft/tensor/ops/next_token.h"
#include "weft/tensor/stream.h"

namespace weft::nn {

/// Decodes token after token with as little of the host as possible: tokens and position stay on
/// the device, and on a GPU the second step is captured as a graph, which every later one replays.
///
///   DecodeLoop loop(model, cache);       // a cache that holds the prompt
///   loop.set_tokens({first_token});
///   for (...) loop.step();               // each step reads what the one before chose
///   loop.chosen(0);                      // what the first step chose
///
/// Model and cache must outlive the loop; meanwhile neither may be used otherwise, and parameters
/// must not change.
class DecodeLoop {
 public:
  /// The largest of the first `vocab_size` logits is chosen; 0: of all. Throws ConfigError unless
  /// model.can_decode(cache). Without `may_be_one_kernel` a step is kernel after kernel also where
  /// a DecodeProgram could run it.
  DecodeLoop(DecoderLM& model, DecoderCache& cache, int64_t vocab_size = 0,
             bool may_be_one_kernel = true);
  /// Waits for the steps.
  ~DecodeLoop();
  DecodeLoop(const DecodeLoop&) = delete;
  DecodeLoop& operator=(const DecodeLoop&) = delete;

  /// Tokens that the next step reads, one a sequence.
  void set_tokens(const std::vector<int64_t>& tokens);
  /// Starts a step: the tokens are appended to the cache and give logits(), the largest of which
  /// the next step reads. On a GPU it returns before the step is done. Throws ShapeError where the
  /// cache is full.
  void step();
  /// Steps started.
  int64_t steps() const { return steps_; }

  /// What step number `step`, from 0 on, chose for each sequence: -1 where no logit was finite.
  /// Waits for that step alone while it is one of the last kRemembered, else for all.
  std::vector<int64_t> chosen(int64_t step) const;
  /// Logits of the last step, [B, V] of the model's compute_dtype, until the next one.
  const Tensor& logits() const { return logits_; }

  /// Kernels and copies of a replay; 0 before the second step, on the CPU, and where no graph can
  /// be captured (WEFT_ALLOCATOR=direct, WEFT_CUDA_SYNC=1).
  int64_t nodes() const { return graph_ ? graph_->nodes() : 0; }
  /// Whether a DecodeProgram runs the step; false before the first.
  bool is_one_kernel() const { return program_ != nullptr; }

  static constexpr int64_t kRemembered = 4;

 private:
  Tensor compute(bool settled);
  void run(bool settled);
  void capture();

  DecoderLM& model_;
  DecoderCache& cache_;
  int64_t vocab_size_;
  int64_t first_position_;
  TokenState state_;
  Tensor position_;  // the first of state_.position
  Tensor logits_;
  int64_t steps_ = 0;
  bool may_be_one_kernel_;
  std::unique_ptr<DecodeProgram> program_;
  std::optional<Graph> graph_;
  std::vector<std::unique_ptr<Event>> done_;  // of the last steps
};

}  // namespace weft::nn
