#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "weft/nn/decoder.h"
#include "weft/tensor/generator.h"

namespace weft::nn {

/// How the next token is drawn from logits.
struct SamplingOptions {
  double temperature = 1.0;  ///< logits are divided by it; 0 takes the most likely token (the
                             ///< lowest id among equals)
  int64_t top_k = 0;         ///< keep the k most likely tokens; 0 keeps all
  double top_p = 1.0;  ///< then keep the fewest most likely tokens whose probability reaches p
                       ///< (nucleus sampling, Holtzman et al., 2020)
};

/// Throws ConfigError naming the option, its value and the rule.
void validate(const SamplingOptions& options);

/// Draws a token id from logits [V]. Takes one block of `generator`, none at temperature 0. Throws
/// ShapeError without logits and ConfigError when no logit is finite.
int64_t sample_token(std::span<const float> logits, const SamplingOptions& options,
                     Generator& generator);

struct GenerationOptions {
  int64_t max_new_tokens = 200;
  SamplingOptions sampling = {};
  int64_t vocab_size = 0;  ///< only tokens below it are drawn; 0: all. For embeddings padded with
                           ///< rows that stand for nothing
  bool use_cache = true;   ///< false computes every prefix anew: slow, for checking the caches
};

/// Continues `prompt` (at least one token) by up to max_new_tokens and returns the new tokens.
/// `on_token` is called with each as it is drawn and ends the generation by returning false.
std::vector<int64_t> generate(DecoderLM& model, std::span<const int64_t> prompt,
                              const GenerationOptions& options, Generator& generator,
                              const std::function<bool(int64_t token)>& on_token = {});

}  // namespace weft::nn
