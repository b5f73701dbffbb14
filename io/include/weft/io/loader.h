#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "weft/io/token_source.h"
#include "weft/tensor/tensor.h"

namespace weft::io {

/// What one forward pass takes.
struct Batch {
  Tensor inputs;       ///< [B, T]
  Tensor targets;      ///< [B, T]; kIgnoreIndex where nothing is to be predicted
  int64_t scored = 0;  ///< targets that count
  int64_t step = 0;
  int64_t micro_batch = 0;
};

struct LoaderOptions {
  int64_t batch_size = 16;    ///< B, rows of one micro-batch
  int64_t seq_len = 256;      ///< T
  int64_t micro_batches = 1;  ///< batches of one step (gradient accumulation)
  uint64_t seed = 0;
  int64_t prefetch = 2;      ///< batches that a thread makes ahead; 0: made when asked for
  DType dtype = DType::i32;  ///< i32 or i64
  bool pinned = false;       ///< in page-locked memory, see empty_pinned(): for training on a GPU
};

/// Endless training batches in random order. What batch (step, micro-batch) holds depends on the
/// source, seed, batch size and sequence length alone, with or without prefetching; the state to
/// save for a resume is the step.
///
/// A text is cut into windows of T tokens that do not overlap. Each epoch takes every window once,
/// in a random order, and starts cutting at a random place, so that the cuts differ from epoch to
/// epoch; fewer than 2 T tokens at the ends rest in each epoch. Generated sequences come in their
/// own order, each once.
class Loader {
 public:
  /// Throws ConfigError on a bad option or a source shorter than one sequence.
  Loader(std::shared_ptr<const TokenSource> source, const LoaderOptions& options);
  ~Loader();
  Loader(Loader&&) noexcept;
  Loader& operator=(Loader&&) noexcept;

  const LoaderOptions& options() const;
  /// The batch at the current place, which then advances. What went wrong while it was made ahead
  /// is thrown here.
  Batch next();
  /// Goes to the first micro-batch of `step`. Throws ConfigError below 0.
  void seek(int64_t step);
  /// The step of the batch that next() will give.
  int64_t step() const;
  /// Any batch, without moving.
  Batch batch(int64_t step, int64_t micro_batch = 0) const;
  /// Sequences of one epoch; kEndless for generated data.
  int64_t sequences_per_epoch() const;
  /// Epochs that are complete before `step`, with fraction; 0 for generated data.
  double epoch(int64_t step) const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

struct EvalLoaderOptions {
  int64_t batch_size = 16;
  int64_t seq_len = 256;
  int64_t max_sequences = -1;  ///< stop after these; -1: all; needed for generated data
  DType dtype = DType::i32;
};

/// Every token of a held-out text once, in order: all but the first are targets of exactly one
/// place. The last batch may have fewer rows; a last sequence shorter than T is filled up behind
/// its end with token 0 and targets kIgnoreIndex.
class EvalLoader {
 public:
  /// Throws ConfigError on a bad option or a source of fewer than two tokens.
  EvalLoader(std::shared_ptr<const TokenSource> source, const EvalLoaderOptions& options);

  /// Nothing after the last batch. `step` of the Batch counts batches.
  std::optional<Batch> next();
  void reset() { done_ = 0; }
  int64_t num_sequences() const { return sequences_; }

 private:
  std::shared_ptr<const TokenSource> source_;
  EvalLoaderOptions options_;
  int64_t sequences_ = 0;
  int64_t done_ = 0;
};

}  // namespace weft::io
