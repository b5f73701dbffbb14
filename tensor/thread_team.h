#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace weft {

/// Threads that wait for the next loop awake for a moment, which costs less than waking them, and
/// then sleep, which leaves their cores to others. What a thread has not begun when the caller is
/// done with its own share, the caller takes over, so that nobody waits for a thread to wake up or
/// for a core that others keep busy. Threads are started as they are needed.
class ThreadTeam {
 public:
  ThreadTeam() = default;
  /// Waits for all threads to end.
  ~ThreadTeam();
  ThreadTeam(const ThreadTeam&) = delete;
  ThreadTeam& operator=(const ThreadTeam&) = delete;

  /// Calls call(object, i) once for every i < threads, with i = 0 in the calling thread. `call`
  /// must not throw. Returns false, and has called nothing, while the team runs for another thread
  /// (or for this one).
  bool run(int threads, void (*call)(void* object, int thread), void* object);

  /// Sends threads that wait awake to sleep.
  void rest();

 private:
  enum Status : uint32_t { kIdle, kResting, kCalled, kEnding };
  struct Worker {
    /// A Status and, above it, how often the thread was called: one that wakes up too late for a
    /// call sees that there was one.
    alignas(64) std::atomic<uint32_t> state{kIdle};
    uint32_t calls = 0;
    std::thread thread;

    void call(Status wanted);
    bool take_call();
  };

  int start_workers(int wanted);
  void work(Worker& worker, int thread);
  bool may_wait_awake() const;

  std::mutex in_use_;
  std::vector<std::unique_ptr<Worker>> workers_;
  void (*call_)(void*, int) = nullptr;
  void* object_ = nullptr;
  std::atomic<bool> spins_{false};
  std::atomic<int> caller_core_{-1};
  alignas(64) std::atomic<uint32_t> running_{0};  // shares that are not done
};

/// Leaves the cores to the threads of a library, which would find them taken: to be called before a
/// product that it spreads over its own.
void rest_own_threads();

}  // namespace weft
