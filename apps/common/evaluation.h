#pragma once

#include <cstdint>
#include <memory>

#include "weft/io/token_source.h"
#include "weft/io/tokenizer.h"
#include "weft/nn/decoder.h"

namespace weft::apps {

/// Held-out loss.
struct LossReport {
  double loss = 0;           ///< nats per scored token
  double perplexity = 0;     ///< exp(loss)
  double bits_per_byte = 0;  ///< bits per byte of the text that the scored tokens stand for
  int64_t tokens = 0;        ///< scored
  int64_t bytes = 0;
};

struct LossOptions {
  int64_t batch_size = 16;
  int64_t seq_len = 256;
  int64_t max_sequences = -1;  ///< -1: all; generated data needs a number
};

/// Scores every token of `source` (or of its first sequences) once, each in a window of seq_len.
/// Throws ConfigError when nothing is scored.
LossReport evaluate_loss(nn::DecoderLM& model, std::shared_ptr<const io::TokenSource> source,
                         const io::Tokenizer& tokenizer, const LossOptions& options);

}  // namespace weft::apps
