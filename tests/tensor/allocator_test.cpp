#include "weft/tensor/allocator.h"

#include <cstring>
#include <set>
#include <string>
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

constexpr size_t kMiB = size_t{1} << 20;

/// What to ask for to be given this much: AddressSanitizer guards the end of every block.
constexpr size_t fits_in(size_t bytes) {
#ifdef __SANITIZE_ADDRESS__
  return bytes - 64;
#else
  return bytes;
#endif
}

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

TEST(CpuAllocator, KeepsFreedMemoryForAnySize) {
  const auto allocator = make_cpu_allocator();
  void* const large = allocator->allocate(fits_in(10 * kMiB), kStream);
  allocator->deallocate(large, 10 * kMiB, kStream);
  EXPECT_EQ(allocator->stats().reserved, 10 * kMiB);
  std::vector<void*> small;
  for (int i = 0; i < 9; ++i) small.push_back(allocator->allocate(fits_in(kMiB), kStream));
  EXPECT_EQ(small.front(), large);
  EXPECT_EQ(allocator->stats().reserved, 10 * kMiB);
  for (void* block : small) allocator->deallocate(block, kMiB, kStream);
  void* const again = allocator->allocate(fits_in(10 * kMiB), kStream);
  EXPECT_EQ(again, large);
  EXPECT_EQ(allocator->stats().reserved, allocator->stats().peak_reserved);
  allocator->deallocate(again, 10 * kMiB, kStream);
  allocator->empty_cache();
  EXPECT_EQ(allocator->stats().reserved, 0);
  EXPECT_EQ(allocator->stats().peak_reserved, 10 * kMiB);
}

TEST(CpuAllocator, GivesUsableMemoryAfterEmptyingTheCache) {
  const auto allocator = make_cpu_allocator();
  auto* const kept = static_cast<char*>(allocator->allocate(1000, kStream));
  std::memset(kept, 7, 1000);
  for (int round = 0; round < 3; ++round) {
    auto* const block = static_cast<char*>(allocator->allocate(size_t{9} << 20, kStream));
    std::memset(block, round, size_t{9} << 20);
    allocator->deallocate(block, size_t{9} << 20, kStream);
    allocator->empty_cache();
    EXPECT_EQ(allocator->stats().reserved, 2 << 20);  // the page of the block that lives
  }
  for (int i = 0; i < 1000; ++i) ASSERT_EQ(kept[i], 7);
  allocator->deallocate(kept, 1000, kStream);
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
  const auto allocator = make_cpu_allocator(10 * kMiB);
  void* const block = allocator->allocate(fits_in(5 * kMiB), kStream);
  EXPECT_THAT(
      [&] { allocator->allocate(fits_in(7 * kMiB), kStream); },
      ThrowsMessage<OutOfMemoryError>(testing::AllOf(
          HasSubstr("requested " + std::to_string(fits_in(7 * kMiB))), HasSubstr("in use 5242880"),
          HasSubstr("reserved 6291456"), HasSubstr("limit 10485760"))));
  EXPECT_EQ(allocator->stats().allocated, 5 * kMiB);
  EXPECT_NO_THROW(
      allocator->deallocate(allocator->allocate(fits_in(3 * kMiB), kStream), 0, kStream));
  allocator->deallocate(block, 5 * kMiB, kStream);
  EXPECT_NO_THROW(
      allocator->deallocate(allocator->allocate(fits_in(9 * kMiB), kStream), 0, kStream));
}

TEST(CpuAllocator, GivesUpTheCacheBeforeItsLimit) {
  const auto allocator = make_cpu_allocator(10 * kMiB);
  void* const gap = allocator->allocate(fits_in(6 * kMiB), kStream);
  void* const block = allocator->allocate(fits_in(2 * kMiB), kStream);
  allocator->deallocate(gap, 6 * kMiB, kStream);
  // Fits behind the block only, with the memory of the gap before it.
  void* const large = allocator->allocate(fits_in(8 * kMiB), kStream);
  EXPECT_GT(large, block);
  EXPECT_EQ(allocator->stats().reserved, 10 * kMiB);
  EXPECT_THROW(allocator->allocate(64, kStream), OutOfMemoryError);
  allocator->deallocate(block, 2 * kMiB, kStream);
  allocator->deallocate(large, 8 * kMiB, kStream);
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
