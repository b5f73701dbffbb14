#pragma once

namespace weft::apps {

/// While one exists, SIGINT and SIGTERM ask for a stop instead of ending the process: the first is
/// seen through requested(), a second ends the process at once with 128 + n.
class StopSignals {
 public:
  StopSignals();
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  /// The signal that came, or 0.
  static int requested();
};

}  // namespace weft::apps
