#pragma once

#include "common/console.h"
#include "common/data.h"
#include "common/model_options.h"
#include "common/train_config.h"

namespace weft::apps {

/// What a training run will be, known before any weight is made: data and shape of the model.
struct RunPlan {
  /// Opens the data and checks the config against it.
  explicit RunPlan(const TrainConfig& config);

  /// Prints version, machine, why no GPU serves where one was welcome, parameters by part, cache,
  /// tokens, estimated memory, output folder.
  void describe(Console& console) const;
  /// Memory of a training step, from the shape alone.
  double estimated_bytes() const;
  /// Rows of the embedding: --vocab-size, or the tokenizer's.
  int64_t vocab_size() const;

  const TrainConfig& config;
  Device device;  ///< that --device names
  Data data;
  ModelSummary model;
};

/// Rows of the embedding of a run with this tokenizer. Throws ConfigError where --vocab-size is too
/// small for it.
int64_t vocab_size_of(const TrainConfig& config, const io::Tokenizer& tokenizer);

}  // namespace weft::apps
