#include "weft/nn/generation.h"

#include <algorithm>
#include <cmath>

#include "weft/nn/decode_loop.h"
#include "weft/tensor/check.h"

namespace weft::nn {

void validate(const SamplingOptions& options) {
  WEFT_CHECK(std::isfinite(options.temperature) && options.temperature >= 0, ConfigError,
             "sampling: temperature must be 0 or more, got {}", options.temperature);
  WEFT_CHECK(options.top_k >= 0, ConfigError, "sampling: top_k must be 0 (off) or more, got {}",
             options.top_k);
  WEFT_CHECK(options.top_p > 0 && options.top_p <= 1, ConfigError,
             "sampling: top_p must lie in (0, 1], got {}", options.top_p);
}

int64_t sample_token(std::span<const float> logits, const SamplingOptions& options,
                     Generator& generator) {
  validate(options);
  WEFT_CHECK(!logits.empty(), ShapeError, "sample_token: there are no logits");
  struct Candidate {
    int64_t token;
    double weight;
  };
  std::vector<Candidate> candidates;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (std::isfinite(logits[i])) candidates.push_back({static_cast<int64_t>(i), logits[i]});
  }
  WEFT_CHECK(!candidates.empty(), ConfigError, "sample_token: none of the {} logits is finite",
             logits.size());
  // Most likely first, the lower id among equals, so that the draw does not depend on the sorting
  // algorithm.
  const auto more_likely = [](const Candidate& a, const Candidate& b) {
    return a.weight != b.weight ? a.weight > b.weight : a.token < b.token;
  };
  if (options.temperature == 0) {
    return std::min_element(candidates.begin(), candidates.end(), more_likely)->token;
  }
  std::sort(candidates.begin(), candidates.end(), more_likely);
  if (options.top_k > 0 && options.top_k < static_cast<int64_t>(candidates.size())) {
    candidates.resize(static_cast<size_t>(options.top_k));
  }
  const double largest = candidates.front().weight;
  double total = 0;
  for (Candidate& candidate : candidates) {
    candidate.weight = std::exp((candidate.weight - largest) / options.temperature);
    total += candidate.weight;
  }
  double kept = 0;
  size_t count = 0;
  while (count < candidates.size() && (count == 0 || kept < options.top_p * total))
    kept += candidates[count++].weight;

  const GeneratorState state = generator.reserve(1);
  const double uniform = philox4x32(state.seed, state.offset)[0] * 0x1p-32;
  double position = uniform * kept;
  for (size_t i = 0; i + 1 < count; ++i) {
    position -= candidates[i].weight;
    if (position < 0) return candidates[i].token;
  }
  return candidates[count - 1].token;
}

namespace {

/// New tokens from which on capturing a graph of the step pays.
constexpr int64_t kWorthAGraph = 8;

bool replays(const DecoderLM& model, const DecoderCache& cache, const GenerationOptions& options) {
  return model.device().is_cuda() && options.max_new_tokens >= kWorthAGraph &&
         model.can_decode(cache);
}

/// Draws tokens after `first`, the first new one, by replays of the captured step. `draw` takes
/// logits [1, V], `keep` a token, and tells whether to go on.
template <class Draw, class Keep>
void continue_by_replays(DecoderLM& model, DecoderCache& cache, const GenerationOptions& options,
                         int64_t first, Draw&& draw, Keep&& keep) {
  DecodeLoop loop(model, cache,
                  std::clamp<int64_t>(options.vocab_size, 0, model.config().vocab_size));
  loop.set_tokens({first});
  const int64_t steps = options.max_new_tokens - 1;
  if (options.sampling.temperature > 0) {
    for (int64_t i = 0; i < steps; ++i) {
      loop.step();
      const int64_t token = draw(loop.logits());
      if (!keep(token)) return;
      loop.set_tokens({token});
    }
    return;
  }
  for (int64_t i = 0; i < steps; ++i) {
    // One step ahead, so that the GPU works while the host handles a token. Where the generation
    // ends early that step was for nothing.
    while (loop.steps() < std::min(i + 2, steps)) loop.step();
    const int64_t token = loop.chosen(i)[0];
    WEFT_CHECK(token >= 0, ConfigError, "generate: none of the {} logits is finite",
               model.config().vocab_size);
    if (!keep(token)) return;
  }
}

}  // namespace

std::vector<int64_t> generate(DecoderLM& model, std::span<const int64_t> prompt,
                              const GenerationOptions& options, Generator& generator,
                              const std::function<bool(int64_t)>& on_token) {
  validate(options.sampling);
  WEFT_CHECK(!prompt.empty(), ShapeError, "generate: the prompt needs at least one token");
  WEFT_CHECK(options.max_new_tokens >= 0, ConfigError,
             "generate: max_new_tokens must not be negative, got {}", options.max_new_tokens);
  const EvalModeGuard eval_mode(model);
  const autograd::NoGradGuard no_grad;
  std::vector<int64_t> sequence(prompt.begin(), prompt.end());
  std::vector<int64_t> generated;
  std::vector<int64_t> unseen = sequence;  // tokens that the cache does not hold yet
  DecoderCache cache =
      model.make_cache(1, static_cast<int64_t>(prompt.size()) + options.max_new_tokens);
  const auto as_row = [](const std::vector<int64_t>& tokens) {
    return from_vector(tokens, {1, static_cast<int64_t>(tokens.size())});
  };
  const auto draw = [&](const Tensor& logits) {  // [1, V]
    const std::vector<float> scores = logits.to_vector<float>();
    const size_t drawn_from = options.vocab_size > 0
                                  ? std::min(scores.size(), static_cast<size_t>(options.vocab_size))
                                  : scores.size();
    return sample_token(std::span(scores).first(drawn_from), options.sampling, generator);
  };
  /// Whether to go on.
  const auto keep = [&](int64_t token) {
    generated.push_back(token);
    return !on_token || on_token(token);
  };
  if (options.use_cache && replays(model, cache, options)) {
    const int64_t first = draw(model.prefill(as_row(sequence), cache));
    if (keep(first)) continue_by_replays(model, cache, options, first, draw, keep);
    return generated;
  }
  for (int64_t i = 0; i < options.max_new_tokens; ++i) {
    const Tensor logits = options.use_cache
                              ? model.prefill(as_row(unseen), cache)
                              : model.logits(as_row(sequence)).data().select(1, -1);  // [1, V]
    const int64_t token = draw(logits);
    sequence.push_back(token);
    unseen = {token};
    if (!keep(token)) break;
  }
  return generated;
}

}  // namespace weft::nn
