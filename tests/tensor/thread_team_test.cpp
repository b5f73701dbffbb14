#include "thread_team.h"

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

namespace weft {
namespace {

template <class Body>
bool run(ThreadTeam& team, int threads, Body&& body) {
  return team.run(
      threads, [](void* object, int thread) { (*static_cast<Body*>(object))(thread); }, &body);
}

TEST(ThreadTeam, CallsEveryShareOnce) {
  ThreadTeam team;
  for (int threads : {1, 2, 3, 7, 2, 16, 1, 4}) {
    std::vector<int> calls(static_cast<size_t>(threads), 0);
    ASSERT_TRUE(run(team, threads, [&](int thread) { ++calls[static_cast<size_t>(thread)]; }));
    EXPECT_EQ(calls, std::vector<int>(static_cast<size_t>(threads), 1)) << threads;
  }
}

TEST(ThreadTeam, TheCallerSeesWhatEveryShareWrote) {
  constexpr int kThreads = 4, kRuns = 5000;
  ThreadTeam team;
  std::vector<int64_t> sums(kThreads, 0);  // not atomic
  for (int i = 0; i < kRuns; ++i) {
    ASSERT_TRUE(run(team, kThreads, [&](int thread) { sums[static_cast<size_t>(thread)] += i; }));
    if (i % 1000 == 0) {
      for (int64_t sum : sums) ASSERT_EQ(sum, int64_t{i} * (i + 1) / 2) << i;
    }
  }
  for (int64_t sum : sums) EXPECT_EQ(sum, int64_t{kRuns} * (kRuns - 1) / 2);
}

TEST(ThreadTeam, RunsInSeveralThreads) {
  ThreadTeam team;
  std::atomic<int> inside{0};
  std::thread::id other;
  // Share 0 ends when share 1 has begun, so that the caller cannot have taken it.
  ASSERT_TRUE(run(team, 2, [&](int thread) {
    if (thread == 1) other = std::this_thread::get_id();
    ++inside;
    while (inside < 2) std::this_thread::yield();
  }));
  EXPECT_NE(other, std::this_thread::get_id());
}

TEST(ThreadTeam, TheCallerTakesWhatNobodyHasBegun) {
  // More shares than there are cores, of no work: threads that wake up late find nothing to do.
  constexpr int kShares = 64;
  ThreadTeam team;
  for (int i = 0; i < 100; ++i) {
    std::atomic<int> calls{0}, by_caller{0};
    const std::thread::id caller = std::this_thread::get_id();
    ASSERT_TRUE(run(team, kShares, [&](int thread) {
      ++calls;
      if (std::this_thread::get_id() == caller) {
        ++by_caller;
      } else {
        EXPECT_NE(thread, 0);
      }
    }));
    ASSERT_EQ(calls, kShares);
    ASSERT_GE(by_caller, 1);
  }
}

TEST(ThreadTeam, WakesUpAfterARest) {
  ThreadTeam team;
  for (int i = 0; i < 20; ++i) {
    std::atomic<int> begun{0};
    ASSERT_TRUE(run(team, 2, [&](int) {
      ++begun;
      while (begun < 2) std::this_thread::yield();
    }));
    std::this_thread::sleep_for(std::chrono::milliseconds(i % 3));
  }
}

TEST(ThreadTeam, RunsAgainAfterARest) {
  ThreadTeam team;
  team.rest();  // of nobody
  for (int i = 0; i < 2000; ++i) {
    std::atomic<int> calls{0};
    ASSERT_TRUE(run(team, 3, [&](int) { ++calls; }));
    ASSERT_EQ(calls, 3);
    if (i % 3 != 0) team.rest();
    if (i % 100 == 0) std::this_thread::sleep_for(std::chrono::microseconds(100));
    if (i % 5 == 0) team.rest();
  }
  std::atomic<int> begun{0};
  ASSERT_TRUE(run(team, 2, [&](int) {
    ++begun;
    while (begun < 2) std::this_thread::yield();
  }));
}

TEST(ThreadTeam, IsRefusedWhileItRuns) {
  ThreadTeam team;
  std::atomic<int> calls{0};
  bool nested = true, beside = true;
  ASSERT_TRUE(run(team, 2, [&](int thread) {
    ++calls;
    if (thread != 0) return;
    nested = run(team, 2, [&](int) { calls += 100; });
    std::thread other([&] { beside = run(team, 2, [&](int) { calls += 100; }); });
    other.join();
  }));
  EXPECT_FALSE(nested);
  EXPECT_FALSE(beside);
  EXPECT_EQ(calls, 2);
}

TEST(ThreadTeam, EndsItsThreads) {
  for (int i = 0; i < 50; ++i) {
    std::atomic<int> calls{0};
    {
      ThreadTeam team;
      ASSERT_TRUE(run(team, 3, [&](int) { ++calls; }));
      if (i % 2 == 0) std::this_thread::sleep_for(std::chrono::microseconds(200));  // asleep
    }
    EXPECT_EQ(calls, 3);
  }
}

}  // namespace
}  // namespace weft
