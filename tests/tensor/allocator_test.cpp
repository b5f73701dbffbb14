#include "weft/tensor/allocator.h"

#include <cstring>
#include <set>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "weft/tensor/error.h"
#include "weft/tensor/tensor.h"

namespace weft {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;

const Stream kStream(kCpu);

TEST(CpuAllocator, AlignsAndKeepsBlocksApart) {
  const auto allocator = make_cpu_allocator();
  std::vector<std::pair<char*, size_t>> blocks;
  for (size_t size : {1u, 63u, 64u, 65u, 1000u, 4096u, 100001u, 1u << 20}) {
    char* const block = static_cast<char*>(allocator->allocate(size, kStream));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(block) % 64, 0u) << size;
    std::memset(block, static_cast<int>(blocks.size()), size);
    blocks.emplace_back(block, size);
  }
  for (size_t i = 0; i < blocks.size(); ++i) {
    for (size_t k = 0; k < blocks[i].second; k += 37)
      ASSERT_EQ(blocks[i].first[k], static_cast<char>(i));
    allocator->deallocate(blocks[i].first, blocks[i].second, kStream);
  }
  EXPECT_EQ(allocator->stats().allocated, 0);
  EXPECT_EQ(allocator->stats().count, 8);
}

TEST(CpuAllocator, GivesNothingForNothing) {
  const auto allocator = make_cpu_allocator();
  void* const nothing = allocator->allocate(0, kStream);
  allocator->deallocate(nothing, 0, kStream);
  allocator->deallocate(nullptr, 100, kStream);
  EXPECT_EQ(allocator->stats().allocated, 0);
  EXPECT_EQ(allocator->stats().reserved, 0);
}

TEST(CpuAllocator, CachesForSimilarSizesOnly) {
  const auto allocator = make_cpu_allocator();
  void* const block = allocator->allocate(100000, kStream);
  allocator->deallocate(block, 100000, kStream);
  EXPECT_EQ(allocator->stats().reserved, allocator->stats().peak_reserved);
  // Far too large for the cached block, and far too small for it.
  void* const large = allocator->allocate(200000, kStream);
  EXPECT_NE(large, block);
  void* const small = allocator->allocate(1000, kStream);
  EXPECT_NE(small, block);
  void* const similar = allocator->allocate(99000, kStream);
  EXPECT_EQ(similar, block);
  for (void* pointer : {large, small, similar}) allocator->deallocate(pointer, 0, kStream);
  const int64_t reserved = allocator->stats().reserved;
  EXPECT_GE(reserved, 301000);
  EXPECT_LE(reserved, 301000 * 9 / 8 + 3 * 64);  // at most an eighth is lost to rounding
  allocator->empty_cache();
  EXPECT_EQ(allocator->stats().reserved, 0);
}

TEST(CpuAllocator, WithoutCachingGivesEverythingBack) {
  const auto allocator = make_cpu_allocator(0, /*caching=*/false);
  void* const block = allocator->allocate(5000, kStream);
  EXPECT_GE(allocator->stats().reserved, 5000);
  allocator->deallocate(block, 5000, kStream);
  EXPECT_EQ(allocator->stats().reserved, 0);
  EXPECT_GE(allocator->stats().peak_reserved, 5000);
  allocator->reset_peak();
  EXPECT_EQ(allocator->stats().peak_reserved, 0);
  EXPECT_EQ(allocator->stats().peak_allocated, 0);
}

TEST(CpuAllocator, PoisonsFreshAndReusedBlocks) {
  const auto allocator = make_cpu_allocator(0, true, /*poison=*/true);
  for (int round = 0; round < 2; ++round) {
    auto* const block = static_cast<unsigned char*>(allocator->allocate(300, kStream));
    for (int i = 0; i < 300; ++i) ASSERT_EQ(block[i], 0xff) << round << " " << i;
    std::memset(block, 0, 300);
    allocator->deallocate(block, 300, kStream);
  }
}

TEST(CpuAllocator, SaysHowMuchWasAskedForAndUsed) {
  const auto allocator = make_cpu_allocator(100000);
  void* const block = allocator->allocate(50000, kStream);
  EXPECT_THAT([&] { allocator->allocate(70000, kStream); },
              ThrowsMessage<OutOfMemoryError>(
                  testing::AllOf(HasSubstr("requested 70000"), HasSubstr("limit 100000"))));
  EXPECT_NO_THROW(allocator->deallocate(allocator->allocate(30000, kStream), 30000, kStream));
  allocator->deallocate(block, 50000, kStream);
  EXPECT_NO_THROW(allocator->deallocate(allocator->allocate(90000, kStream), 90000, kStream));
}

TEST(CpuAllocator, RefusesWhatNoMachineHas) {
  const auto allocator = make_cpu_allocator();
  EXPECT_THROW(allocator->allocate(size_t{1} << 60, kStream), OutOfMemoryError);
  EXPECT_EQ(allocator->stats().allocated, 0);
}

TEST(CpuAllocator, ServesSeveralThreads) {
  const auto allocator = make_cpu_allocator();
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&allocator, t] {
      for (int i = 0; i < 500; ++i) {
        const size_t size = static_cast<size_t>(64 + (i * 37 + t * 101) % 5000);
        auto* const block = static_cast<char*>(allocator->allocate(size, kStream));
        std::memset(block, t, size);
        for (size_t k = 0; k < size; k += 61) ASSERT_EQ(block[k], static_cast<char>(t));
        allocator->deallocate(block, size, kStream);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(allocator->stats().allocated, 0);
  EXPECT_EQ(allocator->stats().count, 2000);
}

TEST(ProcessAllocator, CountsTheTensorsThatLive) {
  const int64_t before = allocator(kCpu).stats().allocated;
  {
    const Tensor x = zeros({1000});
    EXPECT_GE(allocator(kCpu).stats().allocated, before + 4000);
    const Tensor view = x.slice(0, 0, 10);  // takes nothing
    const Tensor handle = x;
    EXPECT_LE(allocator(kCpu).stats().allocated, before + 4000 * 9 / 8 + 64);
  }
  EXPECT_EQ(allocator(kCpu).stats().allocated, before);
}

}  // namespace
}  // namespace weft
