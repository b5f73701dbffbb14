#include "weft/tensor/parallel.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <string_view>
#include <thread>

#ifdef WEFT_THREADING_OPENMP
#include <omp.h>
#endif

#include "weft/tensor/check.h"

#include "thread_team.h"

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

#ifdef WEFT_THREADING_OPENMP

/// Whether the threads of OpenMP sleep as soon as they wait.
bool openmp_sleeps() {
  static const bool sleeps = [] {
    const char* const policy = std::getenv("OMP_WAIT_POLICY");
    if (policy == nullptr) return false;
    constexpr std::string_view kPassive = "passive";
    const std::string_view text = policy;  // in any case of letters, as the runtime takes it
    return std::equal(text.begin(), text.end(), kPassive.begin(), kPassive.end(),
                      [](char given, char wanted) { return (given | 0x20) == wanted; });
  }();
  return sleeps;
}

/// Loops since the last product that a library spread over threads of OpenMP, up to kManyLoops.
std::atomic<int> loops_since_product{0};
constexpr int kManyLoops = 16;

/// Whether the next loop runs on threads of our own. OpenMP's are quick to start where they wait
/// awake, and in the way of other programs. Where they sleep, every region wakes them, which takes
/// longer than many a loop of a decoding step. Between products of a library its threads serve
/// loops as well: two sets of threads would take the cores from each other.
bool uses_own_team() {
  if (!openmp_sleeps()) return false;
  if (loops_since_product.load(std::memory_order_relaxed) >= kManyLoops) return true;
  loops_since_product.fetch_add(1, std::memory_order_relaxed);
  return false;
}

/// Keeps the libraries that a loop calls from starting teams of OpenMP inside of it.
class SerialRegions {
 public:
  SerialRegions() : levels_(omp_get_max_active_levels()), threads_(omp_get_max_threads()) {
    omp_set_max_active_levels(0);
    omp_set_num_threads(1);
  }
  ~SerialRegions() {
    omp_set_num_threads(threads_);
    omp_set_max_active_levels(levels_);
  }
  SerialRegions(const SerialRegions&) = delete;
  SerialRegions& operator=(const SerialRegions&) = delete;

 private:
  int levels_, threads_;
};

#else

bool uses_own_team() {
  return true;
}

struct SerialRegions {
  SerialRegions() {}
};

#endif

ThreadTeam& own_team() {
  // Leaked on purpose: static variables of a program may run loops when they are destroyed.
  static ThreadTeam* const team = new ThreadTeam;
  return *team;
}

/// Calls member(thread) for thread 0..threads-1, thread 0 in the caller, on threads of our own.
template <class Member>
void run_own_team(int threads, const Member& member) {
  const auto call = [&](int thread) {
    const SerialRegions serial;
    member(thread);
  };
  using Call = decltype(call);
  const bool done = own_team().run(
      threads, [](void* object, int thread) { (*static_cast<Call*>(object))(thread); },
      const_cast<void*>(static_cast<const void*>(&call)));
  if (done) return;
  // Threads of the program that run loops at a time share no team.
  for (int thread = 0; thread < threads; ++thread) call(thread);
}

/// Runs body(thread) for thread 0..threads-1, thread 0 in the caller.
template <class Body>
void run_team(int threads, Body&& body) {
  ExceptionSlot slot;
  const auto member = [&](int thread) {
    inside_parallel = true;
    slot.run([&] { body(thread); });
    inside_parallel = false;
  };
  if (uses_own_team()) {
    run_own_team(threads, member);
  } else {
#ifdef WEFT_THREADING_OPENMP
#pragma omp parallel num_threads(threads)
    {
      // The runtime may give fewer threads than asked for; every member's share must run all the
      // same.
      for (int thread = omp_get_thread_num(); thread < threads; thread += omp_get_num_threads())
        member(thread);
    }
#endif
  }
  slot.rethrow();
}

}  // namespace

void rest_own_threads() {
  if (inside_parallel) return;
#ifdef WEFT_THREADING_OPENMP
  if (!openmp_sleeps()) return;
  loops_since_product.store(0, std::memory_order_relaxed);
#endif
  own_team().rest();
}

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
