#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "weft/attention/registry.h"
#include "weft/nn/decoder.h"

#include "common/options.h"

namespace weft::apps {

/// Shape and mechanism of a model as given on the command line or in a config file.
struct ModelOptions {
  int64_t n_layers = 6;
  int64_t d_model = 192;
  int64_t n_heads = 6;
  int64_t n_kv_heads = 0;
  int64_t d_ff = 0;
  std::string attention = "full";
  std::string attention_schedule;
  std::vector<std::string> attention_options;
  double rope_theta = 10000;
  double norm_eps = 1e-6;
  double dropout = 0;
  double init_std = 0.02;
  bool tie_embeddings = false;
  std::string dtype = "f32";
  std::string recompute = "none";

  void add_to(Options& options);
  /// The decoder's config. `vocab_size` comes from the tokenizer; --dtype auto depends on the
  /// device. Throws ConfigError.
  nn::DecoderConfig decoder_config(int64_t vocab_size, Device device = kCpu) const;
  /// Mechanisms, shape and options of the layers.
  attention::AttentionConfig attention_config() const;
  /// The schedule of mechanisms: --attention-schedule, or --attention in all layers.
  const std::string& schedule() const {
    return attention_schedule.empty() ? attention : attention_schedule;
  }
  /// A model on this device with fresh weights drawn from `seed`, the same on every device.
  std::unique_ptr<nn::DecoderLM> make_model(int64_t vocab_size, uint64_t seed,
                                            Device device = kCpu) const;
};

/// Parameters of a model by part: "embedding", "attention", "mlp", "norm", "head".
struct ParameterCount {
  std::string part;
  int64_t count;
};
std::vector<ParameterCount> count_parameters(const nn::DecoderLM& model);

/// The layers of one mechanism in a model.
struct LayerGroup {
  std::string mechanism;
  int64_t layers = 0;
  int64_t parameters = 0;    ///< of one layer
  int64_t cache_bytes = 0;   ///< of one layer and sequence, see ModelSummary::cache_tokens
  double forward_flops = 0;  ///< of one layer and sequence of cache_tokens tokens
};

/// What can be said of a model without its weights.
struct ModelSummary {
  nn::DecoderConfig config;
  std::vector<ParameterCount> parts;  ///< as count_parameters() gives them
  std::vector<LayerGroup> layers;     ///< in order of first use
  int64_t cache_tokens = 0;           ///< length of the sequence that the caches hold

  int64_t num_parameters() const;
  /// Bytes of the caches of all layers for each token of one sequence.
  double cache_bytes_per_token() const;
};
/// Makes one attention layer of each mechanism and counts the rest by formula: a model of billions
/// of parameters takes the memory of one layer. Throws ConfigError as make_model() does.
ModelSummary summarize(const ModelOptions& options, int64_t vocab_size, int64_t tokens,
                       Device device = kCpu);

}  // namespace weft::apps
