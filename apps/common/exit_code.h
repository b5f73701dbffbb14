#pragma once

namespace weft::apps {

/// What every subcommand returns; 128 + n after signal n.
enum ExitCode : int { kDone = 0, kFailed = 1, kUsage = 2, kCheckFailed = 3, kSignalBase = 128 };

}  // namespace weft::apps
