#include "weft/tensor/parallel.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#ifdef WEFT_THREADING_OPENMP
#include <omp.h>
#endif

#include "weft/tensor/check.h"

namespace weft {
namespace {

int initial_num_threads() {
#ifdef WEFT_THREADING_OPENMP
  return omp_get_max_threads();
#else
  if (const char* text = std::getenv("OMP_NUM_THREADS")) {
    if (const int value = std::atoi(text); value > 0) return value;
  }
  return static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
#endif
}

std::atomic<int>& thread_count() {
  static std::atomic<int> count{initial_num_threads()};
  return count;
}

thread_local bool inside_parallel = false;

/// Keeps the first exception of a group of threads for the caller.
class ExceptionSlot {
 public:
  template <class Body>
  void run(Body&& body) {
    try {
      body();
    } catch (...) {
      std::lock_guard lock(mutex_);
      if (!first_) first_ = std::current_exception();
    }
  }
  void rethrow() const {
    if (first_) std::rethrow_exception(first_);
  }

 private:
  std::mutex mutex_;
  std::exception_ptr first_;
};

/// Runs body(thread) for thread 0..threads-1, thread 0 in the caller.
template <class Body>
void run_team(int threads, Body&& body) {
  ExceptionSlot slot;
  const auto member = [&](int thread) {
    inside_parallel = true;
    slot.run([&] { body(thread); });
    inside_parallel = false;
  };
#ifdef WEFT_THREADING_OPENMP
#pragma omp parallel num_threads(threads)
  {
    // The runtime may give fewer threads than asked for; every member's share must run all the
    // same.
    for (int thread = omp_get_thread_num(); thread < threads; thread += omp_get_num_threads())
      member(thread);
  }
#else
  std::vector<std::jthread> others;
  for (int thread = 1; thread < threads; ++thread) others.emplace_back(member, thread);
  member(0);
  others.clear();
#endif
  slot.rethrow();
}

}  // namespace

int num_threads() {
  return thread_count().load(std::memory_order_relaxed);
}

void set_num_threads(int threads) {
  WEFT_CHECK(threads >= 1, ConfigError, "set_num_threads: needs at least 1 thread, got {}",
             threads);
  thread_count().store(threads, std::memory_order_relaxed);
#ifdef WEFT_THREADING_OPENMP
  omp_set_num_threads(threads);
#endif
}

namespace detail {

void parallel_for_impl(int64_t begin, int64_t end, int64_t grain, RangeFunction body) {
  if (begin >= end) return;
  const int64_t count = end - begin;
  const int64_t chunks = std::min<int64_t>(
      num_threads(), (count + std::max<int64_t>(grain, 1) - 1) / std::max<int64_t>(grain, 1));
  if (chunks <= 1 || inside_parallel) {
    body.call(body.object, begin, end, 0);
    return;
  }
  run_team(static_cast<int>(chunks), [&](int thread) {
    const int64_t from = begin + count * thread / chunks;
    const int64_t to = begin + count * (thread + 1) / chunks;
    if (from < to) body.call(body.object, from, to, thread);
  });
}

}  // namespace detail

void parallel_for_dynamic(int64_t begin, int64_t end, int64_t grain,
                          const std::function<void(int64_t, int64_t, int)>& body) {
  if (begin >= end) return;
  const int64_t step = std::max<int64_t>(grain, 1);
  const int64_t chunks = (end - begin + step - 1) / step;
  const int team = static_cast<int>(std::min<int64_t>(num_threads(), chunks));
  std::atomic<int64_t> next{begin};
  const auto work = [&](int thread) {
    for (int64_t from = next.fetch_add(step); from < end; from = next.fetch_add(step)) {
      body(from, std::min(from + step, end), thread);
    }
  };
  if (team <= 1 || inside_parallel) {
    work(0);
  } else {
    run_team(team, work);
  }
}

}  // namespace weft
