#include "weft/tensor/parallel.h"

#include <atomic>
#include <stdexcept>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "weft/tensor/error.h"

namespace weft {
namespace {

TEST(ParallelFor, VisitsEveryIndexOnce) {
  for (int64_t count : {0, 1, 2, 3, 15, 63, 111, 1000}) {
    for (int64_t grain : {1, 7, 64, 5000}) {
      std::vector<int> visits(static_cast<size_t>(count), 0);
      parallel_for(0, count, grain, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) ++visits[static_cast<size_t>(i)];
      });
      EXPECT_EQ(visits, std::vector<int>(static_cast<size_t>(count), 1)) << count << " " << grain;
    }
  }
}

TEST(ParallelForDynamic, VisitsEveryIndexOnceWithAScratchThreadInRange) {
  std::vector<int> visits(1001, 0);
  std::atomic<bool> in_range{true};
  parallel_for_dynamic(3, 1001, 10, [&](int64_t begin, int64_t end, int thread) {
    if (thread < 0 || thread >= num_threads()) in_range = false;
    for (int64_t i = begin; i < end; ++i) ++visits[static_cast<size_t>(i)];
  });
  EXPECT_TRUE(in_range);
  for (size_t i = 0; i < visits.size(); ++i) EXPECT_EQ(visits[i], i < 3 ? 0 : 1) << i;
}

TEST(ParallelFor, RethrowsTheExceptionOfAThread) {
  EXPECT_THROW(parallel_for(0, 100, 1,
                            [](int64_t, int64_t end) {
                              if (end == 100) throw std::runtime_error("in a chunk");
                            }),
               std::runtime_error);
}

TEST(ParallelFor, NestedCallsRunInTheCallingThread) {
  std::atomic<int> inner_calls{0};
  parallel_for(0, 2, 1, [&](int64_t, int64_t) {
    parallel_for(0, 100, 1, [&](int64_t, int64_t) { ++inner_calls; });
  });
  EXPECT_LE(inner_calls, 2);
  EXPECT_GE(inner_calls, 1);
}

TEST(ParallelFor, RunsInSeveralThreadsOfTheProgramAtATime) {
  constexpr int kCallers = 3, kRuns = 200, kCount = 500;
  std::vector<int64_t> totals(kCallers, 0);
  std::vector<std::thread> callers;
  for (int64_t& total : totals) {
    callers.emplace_back([&total] {
      for (int run = 0; run < kRuns; ++run) {
        std::vector<int64_t> values(kCount, 0);
        parallel_for(0, kCount, 1, [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i) values[static_cast<size_t>(i)] += i;
        });
        for (int64_t value : values) total += value;
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(totals, std::vector<int64_t>(kCallers, int64_t{kRuns} * kCount * (kCount - 1) / 2));
}

TEST(ParallelFor, RunsMoreThreadsThanThereAreCores) {
  const int before = num_threads();
  set_num_threads(9);
  std::vector<int> visits(1000, 0);
  for (int run = 0; run < 20; ++run) {
    parallel_for(0, 1000, 1, [&](int64_t begin, int64_t end, int thread) {
      ASSERT_LT(thread, 9);
      for (int64_t i = begin; i < end; ++i) ++visits[static_cast<size_t>(i)];
    });
  }
  set_num_threads(before);
  EXPECT_EQ(visits, std::vector<int>(1000, 20));
}

TEST(SetNumThreads, RefusesZero) {
  const int before = num_threads();
  EXPECT_THROW(set_num_threads(0), ConfigError);
  EXPECT_EQ(num_threads(), before);
}

}  // namespace
}  // namespace weft
