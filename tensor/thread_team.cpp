#include "thread_team.h"

#include <chrono>
#include <system_error>

#ifdef __linux__
#include <sched.h>
#endif

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

namespace weft {
namespace {

/// About what waking a thread costs, so that at worst a wait takes twice as long as the better
/// choice would.
constexpr std::chrono::microseconds kAwake{50};

void pause() {
#if defined(__x86_64__) || defined(__i386__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/// The core that the calling thread runs on; -1 where that is not known.
int current_core() {
#ifdef __linux__
  return sched_getcpu();
#else
  return -1;
#endif
}

/// Returns the first value that is `ready`.
template <class Ready>
uint32_t wait_until(const std::atomic<uint32_t>& value, bool spins, const Ready& ready) {
  using Clock = std::chrono::steady_clock;
  constexpr int kLooks = 16;  // between looks at the clock, which take longer
  if (spins) {
    const auto end = Clock::now() + kAwake;
    do {
      for (int i = 0; i < kLooks; ++i) {
        if (const uint32_t now = value.load(std::memory_order_acquire); ready(now)) return now;
        pause();
      }
    } while (Clock::now() < end);
  }
  for (;;) {
    const uint32_t now = value.load(std::memory_order_acquire);
    if (ready(now)) return now;
    value.wait(now, std::memory_order_acquire);
  }
}

constexpr uint32_t kStatuses = 4;

uint32_t status_of(uint32_t state) {
  return state % kStatuses;
}

}  // namespace

void ThreadTeam::Worker::call(Status wanted) {
  ++calls;
  state.exchange(calls * kStatuses + wanted);
  state.notify_one();
}

/// Whether the calling thread is the one to answer the call.
bool ThreadTeam::Worker::take_call() {
  uint32_t now = state.load(std::memory_order_acquire);
  while (status_of(now) == kCalled) {
    if (state.compare_exchange_weak(now, now - kCalled + kIdle)) return true;
  }
  return false;
}

ThreadTeam::~ThreadTeam() {
  for (const auto& worker : workers_) {
    worker->call(kEnding);
    worker->thread.join();
  }
}

bool ThreadTeam::run(int threads, void (*call)(void*, int), void* object) {
  const std::unique_lock lock(in_use_, std::try_to_lock);
  if (!lock.owns_lock()) return false;
  const int workers = start_workers(threads - 1);
  static const auto cores = static_cast<int>(std::thread::hardware_concurrency());
  // With more threads than cores, those that wait would keep others from working.
  spins_.store(threads <= cores, std::memory_order_relaxed);
  caller_core_.store(current_core(), std::memory_order_relaxed);
  call_ = call;
  object_ = object;
  running_.store(static_cast<uint32_t>(workers), std::memory_order_relaxed);
  for (int i = 0; i < workers; ++i) workers_[static_cast<size_t>(i)]->call(kCalled);
  call(object, 0);
  for (int thread = 1; thread < threads; ++thread) {
    const bool has_worker = thread <= workers;
    if (has_worker && !workers_[static_cast<size_t>(thread - 1)]->take_call()) continue;
    call(object, thread);
    if (has_worker) running_.fetch_sub(1);
  }
  wait_until(running_, threads <= cores, [](uint32_t running) { return running == 0; });
  return true;
}

void ThreadTeam::rest() {
  const std::unique_lock lock(in_use_, std::try_to_lock);
  if (!lock.owns_lock()) return;
  for (const auto& worker : workers_) {
    uint32_t now = worker->state.load(std::memory_order_relaxed);
    if (status_of(now) != kIdle) continue;
    worker->state.compare_exchange_strong(now, now - kIdle + kResting);  // who sleeps may sleep on
  }
}

/// The number of workers, up to `wanted`, that there are then.
int ThreadTeam::start_workers(int wanted) {
  while (static_cast<int>(workers_.size()) < wanted) {
    auto worker = std::make_unique<Worker>();
    try {
      const int thread = static_cast<int>(workers_.size()) + 1;
      worker->thread = std::thread([this, thread, &self = *worker] { work(self, thread); });
    } catch (const std::system_error&) {
      return static_cast<int>(workers_.size());
    }
    workers_.push_back(std::move(worker));
  }
  return wanted;
}

void ThreadTeam::work(Worker& worker, int thread) {
  uint32_t seen = kIdle;
  for (bool spins = false;;) {
    seen = wait_until(worker.state, spins, [seen](uint32_t now) { return now != seen; });
    if (status_of(seen) == kEnding) return;
    if (worker.take_call()) {
      spins = may_wait_awake();
      call_(object_, thread);
      seen = seen - kCalled + kIdle;
      if (running_.fetch_sub(1) == 1) running_.notify_one();
    } else {
      spins = status_of(seen) != kResting && may_wait_awake();
    }
  }
}

/// A thread that waits awake on the caller's core would only delay the next call.
bool ThreadTeam::may_wait_awake() const {
  if (!spins_.load(std::memory_order_relaxed)) return false;
  const int core = caller_core_.load(std::memory_order_relaxed);
  return core < 0 || current_core() != core;
}

}  // namespace weft
