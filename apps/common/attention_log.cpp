#include "common/attention_log.h"

#include <fmt/format.h>

#include "weft/attention/attention_backend.h"

namespace weft::apps {

using attention::AttentionBackend;
using attention::AttentionChoice;

AttentionLog::AttentionLog(const std::string& backend, Console& console, Wanted wanted) {
  attention::set_attention_backend(attention::parse_attention_backend(backend));
  attention::set_attention_listener([&console, wanted](const AttentionChoice& choice) {
    const std::string line =
        choice.backend == AttentionBackend::cudnn
            ? fmt::format("{}: by {}", choice.problem, choice.reason)
            : fmt::format("{}: by Weft's kernels ({})", choice.problem, choice.reason);
    if (wanted == Wanted::always) {
      console.info(line);
    } else {
      console.debug(line);
    }
  });
}

AttentionLog::~AttentionLog() {
  attention::set_attention_listener({});
  attention::set_attention_backend(AttentionBackend::automatic);
}

}  // namespace weft::apps
