#pragma once

#include <csignal>
#include <thread>

namespace weft::apps {

/// Takes SIGINT and SIGTERM while it lives, in a thread of its own. Kernels that oneDNN generates
/// use the stack pointer as a common register, so a handler that runs in a computing thread would
/// overwrite the heap. One at a time, made before any thread that computes: threads inherit that
/// the signals pass them by. Threads that libraries made when they were loaded pass them on.
///
/// At first a signal ends the process at once, with 128 + n. After note_first() the first one is
/// only noted, for the loop that asks requested(), and the second ends the process.
class StopSignals {
 public:
  StopSignals();
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  static void note_first();
  /// The signal that asks for a stop; 0 when none has come.
  static int requested();

 private:
  sigset_t before_;
  struct sigaction interrupt_before_, terminate_before_;
  std::thread thread_;
};

}  // namespace weft::apps
