#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

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
  /// The decoder's config. `vocab_size` comes from the tokenizer. Throws ConfigError.
  nn::DecoderConfig decoder_config(int64_t vocab_size) const;
  /// A model with fresh weights drawn from `seed`.
  std::unique_ptr<nn::DecoderLM> make_model(int64_t vocab_size, uint64_t seed) const;
};

/// Parameters of a model by part: "embedding", "attention", "mlp", "norm", "head".
struct ParameterCount {
  std::string part;
  int64_t count;
};
std::vector<ParameterCount> count_parameters(const nn::DecoderLM& model);

}  // namespace weft::apps
