#include "common/signals.h"

#include <csignal>

#include <unistd.h>

#include "common/exit_code.h"

namespace weft::apps {
namespace {

volatile std::sig_atomic_t stop_signal = 0;

extern "C" void on_stop_signal(int signal) {
  if (stop_signal != 0) _exit(kSignalBase + signal);
  stop_signal = signal;
}

void install(void (*handler)(int)) {
  struct sigaction action = {};
  action.sa_handler = handler;
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

}  // namespace

StopSignals::StopSignals() {
  stop_signal = 0;
  install(&on_stop_signal);
}

StopSignals::~StopSignals() {
  install(SIG_DFL);
}

int StopSignals::requested() {
  return stop_signal;
}

}  // namespace weft::apps
