#pragma once

#include <string>

#include "common/console.h"

namespace weft::apps {

/// For its life, full attention is computed as --attention-backend says, and the console tells once
/// whose kernels run what on a GPU.
class AttentionLog {
 public:
  enum class Wanted {
    always,        ///< where speed is the matter: train, bench
    when_verbose,  ///< where it would break into a text or stand before a result
  };
  AttentionLog(const std::string& backend, Console& console, Wanted wanted);
  ~AttentionLog();
  AttentionLog(const AttentionLog&) = delete;
  AttentionLog& operator=(const AttentionLog&) = delete;
};

}  // namespace weft::apps
