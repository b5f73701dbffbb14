#pragma once

#include <string>

#include "common/console.h"

namespace weft::apps {

/// For its life, full attention is computed as --attention-backend says, and the console tells
/// whose kernels run what on a GPU.
class AttentionLog {
 public:
  AttentionLog(const std::string& backend, Console& console);
  ~AttentionLog();
  AttentionLog(const AttentionLog&) = delete;
  AttentionLog& operator=(const AttentionLog&) = delete;
};

}  // namespace weft::apps
