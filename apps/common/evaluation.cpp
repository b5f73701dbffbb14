#include "common/evaluation.h"

#include <cmath>
#include <utility>

#include "weft/io/loader.h"
#include "weft/tensor/check.h"
#include "weft/tensor/ops/reduce.h"

namespace weft::apps {

LossReport evaluate_loss(nn::DecoderLM& model, std::shared_ptr<const io::TokenSource> source,
                         const io::Tokenizer& tokenizer, const LossOptions& options) {
  const nn::EvalModeGuard eval_mode(model);
  const std::string name = source->name();
  io::EvalLoader loader(std::move(source), {.batch_size = options.batch_size,
                                            .seq_len = options.seq_len,
                                            .max_sequences = options.max_sequences});
  LossReport report;
  double nats = 0;
  while (const auto batch = loader.next()) {
    nats += sum(model.token_losses(batch->inputs, batch->targets).to(DType::f64)).item<double>();
    report.tokens += batch->scored;
    report.bytes += tokenizer.count_bytes(batch->targets);
  }
  WEFT_CHECK(report.tokens > 0, ConfigError, "eval: nothing is scored in {}", name);
  report.loss = nats / static_cast<double>(report.tokens);
  report.perplexity = std::exp(report.loss);
  report.bits_per_byte = nats / std::log(2.0) / static_cast<double>(report.bytes);
  return report;
}

}  // namespace weft::apps
