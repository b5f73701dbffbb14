#include "common/signals.h"

#include <atomic>
#include <chrono>
#include <csignal>
#include <thread>

#include <gtest/gtest.h>
#include <pthread.h>

namespace weft::apps {
namespace {

/// A thread that was there first, as libraries make them when they are loaded: signals do not pass
/// it by. It wakes often, since the thread sanitizer hands a signal on when a call returns.
class EarlierThread {
 public:
  EarlierThread()
      : thread_([this] {
          while (!done_) std::this_thread::sleep_for(std::chrono::milliseconds(1));
        }) {}
  ~EarlierThread() {
    done_ = true;
    thread_.join();
  }
  pthread_t handle() { return thread_.native_handle(); }

 private:
  std::atomic<bool> done_{false};
  std::thread thread_;
};

int wait_for_request() {
  for (int i = 0; i < 1000 && StopSignals::requested() == 0; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  return StopSignals::requested();
}

TEST(StopSignalsHere, TakesWhatReachesAThreadThatWasThereBefore) {
  EarlierThread earlier;
  for (const int signal : {SIGINT, SIGTERM}) {
    const StopSignals signals;
    StopSignals::note_first();
    EXPECT_EQ(StopSignals::requested(), 0);
    ASSERT_EQ(pthread_kill(earlier.handle(), signal), 0);
    EXPECT_EQ(wait_for_request(), signal);
  }
}

TEST(StopSignalsHere, GivesBackWhatWasSetBefore) {
  struct sigaction mine {
  }, now{};
  mine.sa_handler = SIG_IGN;
  struct sigaction before {};
  sigaction(SIGTERM, &mine, &before);
  { const StopSignals signals; }
  sigaction(SIGTERM, &before, &now);
  EXPECT_EQ(now.sa_handler, SIG_IGN);
}

}  // namespace
}  // namespace weft::apps
