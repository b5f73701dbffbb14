#include "common/attention_log.h"

#include <fmt/format.h>

#include "weft/attention/attention_backend.h"

namespace weft::apps {

using attention::AttentionBackend;
using attention::AttentionChoice;

AttentionLog::AttentionLog(const std::string& backend, Console& console) {
  attention::set_attention_backend(attention::parse_attention_backend(backend));
  attention::set_attention_listener([&console](const AttentionChoice& choice) {
    if (choice.backend == AttentionBackend::cudnn)
      console.info(fmt::format("{}: by {}", choice.problem, choice.reason));
    else
      console.info(fmt::format("{}: by Weft's kernels ({})", choice.problem, choice.reason));
  });
}

AttentionLog::~AttentionLog() {
  attention::set_attention_listener({});
  attention::set_attention_backend(AttentionBackend::automatic);
}

}  // namespace weft::apps
