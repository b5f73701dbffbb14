#include "common/signals.h"

#include <atomic>
#include <cerrno>

#include <pthread.h>
#include <unistd.h>

#include "common/exit_code.h"

namespace weft::apps {
namespace {

std::atomic<bool> notes_first{false};
std::atomic<bool> ending{false};
std::atomic<int> stop_signal{0};
std::atomic<pthread_t> taker;  // the thread that waits for signals

sigset_t stop_set() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  return set;
}

void take_signals() {
  const sigset_t set = stop_set();
  while (!ending) {
    int signal = 0;
    if (sigwait(&set, &signal) != 0 || ending) continue;
    if (!notes_first || stop_signal != 0) _exit(kSignalBase + signal);
    stop_signal = signal;
  }
}

/// Runs in a thread that was there before, such as one that OpenBLAS makes when it is loaded: the
/// signal did not pass it by, and would end the process.
void pass_on(int signal) {
  const int error = errno;
  pthread_kill(taker, signal);
  errno = error;
}

}  // namespace

StopSignals::StopSignals() {
  notes_first = false;
  ending = false;
  stop_signal = 0;
  const sigset_t set = stop_set();
  pthread_sigmask(SIG_BLOCK, &set, &before_);
  thread_ = std::thread(&take_signals);
  taker = thread_.native_handle();
  struct sigaction action {};
  action.sa_handler = &pass_on;
  action.sa_mask = set;
  action.sa_flags = SA_RESTART;
  sigaction(SIGINT, &action, &interrupt_before_);
  sigaction(SIGTERM, &action, &terminate_before_);
}

StopSignals::~StopSignals() {
  sigaction(SIGINT, &interrupt_before_, nullptr);
  sigaction(SIGTERM, &terminate_before_, nullptr);
  ending = true;
  pthread_kill(thread_.native_handle(), SIGTERM);  // wakes it
  thread_.join();
  pthread_sigmask(SIG_SETMASK, &before_, nullptr);
}

void StopSignals::note_first() {
  notes_first = true;
}

int StopSignals::requested() {
  return stop_signal;
}

}  // namespace weft::apps
