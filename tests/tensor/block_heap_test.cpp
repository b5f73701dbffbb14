#include "block_heap.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <random>
#include <vector>

#include <gtest/gtest.h>

namespace weft {
namespace {

constexpr size_t kPage = 4096;
constexpr size_t kAlign = 64;

/// Pages without memory: addresses that nobody may touch, as those of a device. Refuses what a page
/// range may not be asked for.
class FakePages final : public PageRange {
 public:
  explicit FakePages(size_t count) : committed_(count) {}

  char* begin() const override { return reinterpret_cast<char*>(uintptr_t{1} << 40); }
  size_t page_bytes() const override { return kPage; }
  size_t page_count() const override { return committed_.size(); }

  bool commit(size_t first, size_t count) override {
    EXPECT_GT(count, 0u);
    if (used() + count > available) return false;
    for (size_t i = first; i < first + count; ++i) {
      EXPECT_FALSE(committed_.at(i)) << i;
      committed_[i] = true;
    }
    return true;
  }
  void decommit(size_t first, size_t count) noexcept override {
    EXPECT_GT(count, 0u);
    for (size_t i = first; i < first + count; ++i) {
      EXPECT_TRUE(committed_.at(i)) << i;
      committed_[i] = false;
    }
  }

  bool has_memory(const char* from, size_t bytes) const {
    const auto offset = static_cast<size_t>(from - begin());
    return std::all_of(at(offset / kPage), at((offset + bytes + kPage - 1) / kPage),
                       [](bool committed) { return committed; });
  }
  size_t used() const {
    return static_cast<size_t>(std::count(committed_.begin(), committed_.end(), true));
  }

  size_t available = ~size_t{0};  // pages that the system has

 private:
  std::vector<bool>::const_iterator at(size_t page) const {
    return committed_.begin() + static_cast<std::ptrdiff_t>(page);
  }

  std::vector<bool> committed_;
};

char* take(BlockHeap& heap, size_t bytes) {
  return static_cast<char*>(heap.allocate(bytes));
}

TEST(BlockHeap, TakesTheSmallestFreeBlockThatFits) {
  FakePages pages(64);
  BlockHeap heap(pages, kAlign);
  char* const large = take(heap, 10 * kPage);
  char* const between = take(heap, 64);
  char* const small = take(heap, 3 * kPage);
  char* const last = take(heap, 64);
  EXPECT_EQ(large, pages.begin());
  EXPECT_EQ(last, pages.begin() + 13 * kPage + 64);
  heap.deallocate(large);
  heap.deallocate(small);
  EXPECT_EQ(take(heap, 2 * kPage), small);
  EXPECT_EQ(take(heap, kPage), small + 2 * kPage);
  EXPECT_EQ(take(heap, 4 * kPage), large);
  EXPECT_EQ(take(heap, 6 * kPage), large + 4 * kPage);
  EXPECT_EQ(take(heap, 1), last + 64);  // what is left lies behind
  EXPECT_EQ(between, large + 10 * kPage);
}

TEST(BlockHeap, JoinsFreeNeighboursInAnyOrder) {
  std::vector<int> order = {0, 1, 2, 3};
  do {
    FakePages pages(4);
    BlockHeap heap(pages, kAlign);
    char* blocks[4];
    for (char*& block : blocks) block = take(heap, kPage);
    EXPECT_EQ(heap.allocate(1), nullptr);
    for (const int i : order) EXPECT_EQ(heap.deallocate(blocks[i]), kPage);
    EXPECT_EQ(take(heap, 4 * kPage), pages.begin());
  } while (std::next_permutation(order.begin(), order.end()));
}

TEST(BlockHeap, RoundsToTheAlignment) {
  FakePages pages(1);
  BlockHeap heap(pages, kAlign);
  char* const first = take(heap, 1);
  char* const second = take(heap, 65);
  EXPECT_EQ(second, first + 64);
  EXPECT_EQ(take(heap, 64), second + 128);
  EXPECT_EQ(heap.deallocate(first), 64u);
  EXPECT_EQ(heap.deallocate(second), 128u);
}

TEST(BlockHeap, CommitsWhatBlocksTouchAndReleasesWhatNoneDoes) {
  FakePages pages(16);
  BlockHeap heap(pages, kAlign);
  char* const first = take(heap, kPage / 2);
  EXPECT_EQ(heap.committed_bytes(), kPage);
  char* const second = take(heap, kPage);  // half of it lies in the first page
  EXPECT_EQ(heap.committed_bytes(), 2 * kPage);
  char* const third = take(heap, 5 * kPage);
  EXPECT_EQ(heap.committed_bytes(), 7 * kPage);
  heap.deallocate(second);
  heap.release_free_pages();  // both pages of the free block are shared with its neighbours
  EXPECT_EQ(heap.committed_bytes(), 7 * kPage);
  heap.deallocate(first);
  heap.release_free_pages();
  EXPECT_EQ(heap.committed_bytes(), 6 * kPage);
  EXPECT_TRUE(pages.has_memory(third, 5 * kPage));
  EXPECT_EQ(take(heap, kPage), pages.begin());  // comes back with the page it lost
  EXPECT_TRUE(pages.has_memory(pages.begin(), kPage));
  heap.deallocate(third);
  heap.deallocate(pages.begin());
  heap.release_free_pages();
  EXPECT_EQ(heap.committed_bytes(), 0u);
  EXPECT_EQ(pages.used(), 0u);
}

TEST(BlockHeap, GivesNothingWhereMemoryOrAddressesEnd) {
  FakePages pages(8);
  BlockHeap heap(pages, kAlign, /*limit_pages=*/4);
  EXPECT_EQ(heap.allocate(9 * kPage), nullptr);
  EXPECT_EQ(heap.allocate(~size_t{0}), nullptr);
  EXPECT_EQ(heap.allocate(5 * kPage), nullptr);
  EXPECT_EQ(heap.committed_bytes(), 0u);
  pages.available = 3;
  EXPECT_EQ(heap.allocate(4 * kPage), nullptr);
  char* const block = take(heap, 3 * kPage);
  EXPECT_EQ(block, pages.begin());
  EXPECT_EQ(heap.allocate(64), nullptr);
  EXPECT_EQ(heap.deallocate(block), 3 * kPage);
  EXPECT_EQ(take(heap, 64), pages.begin());
}

TEST(BlockHeap, LivesWithoutAnyPage) {
  FakePages pages(0);
  BlockHeap heap(pages, kAlign);
  EXPECT_EQ(heap.allocate(1), nullptr);
  heap.release_free_pages();
  EXPECT_EQ(heap.committed_bytes(), 0u);
}

TEST(BlockHeap, KeepsRandomBlocksApartAndComesBackToOne) {
  constexpr size_t kPages = 4096;
  for (const uint32_t seed : {1u, 2u, 3u}) {
    std::mt19937 random(seed);
    FakePages pages(kPages);
    BlockHeap heap(pages, kAlign);
    std::map<char*, size_t> live;  // with their sizes
    size_t live_bytes = 0;
    for (int step = 0; step < 22500; ++step) {
      const bool shrink = step / 2500 % 2 == 1;
      if (live.empty() || random() % 8 >= (shrink ? 5u : 3u)) {
        // Sizes of all magnitudes from 1 byte to 128 KiB.
        const size_t bytes = 1 + random() % (size_t{1} << random() % 18);
        char* const block = take(heap, bytes);
        if (block == nullptr) continue;
        const size_t size = (bytes + kAlign - 1) / kAlign * kAlign;
        ASSERT_EQ((block - pages.begin()) % kAlign, 0u);
        ASSERT_TRUE(block >= pages.begin() && block + size <= pages.begin() + kPages * kPage);
        const auto [position, is_new] = live.emplace(block, size);
        ASSERT_TRUE(is_new);
        const auto next = std::next(position);
        ASSERT_TRUE(next == live.end() || block + size <= next->first);
        if (position != live.begin()) {
          const auto [before, before_size] = *std::prev(position);
          ASSERT_LE(before + before_size, block);
        }
        ASSERT_TRUE(pages.has_memory(block, size));
        live_bytes += size;
      } else {
        auto chosen = live.begin();
        std::advance(chosen, random() % live.size());
        ASSERT_EQ(heap.deallocate(chosen->first), chosen->second);
        live_bytes -= chosen->second;
        live.erase(chosen);
      }
      if (step % 1000 == 0) {
        heap.release_free_pages();
        for (const auto& [block, size] : live) ASSERT_TRUE(pages.has_memory(block, size));
      }
      ASSERT_EQ(heap.committed_bytes(), pages.used() * kPage);
      ASSERT_GE(heap.committed_bytes(), live_bytes);
    }
    ASSERT_FALSE(live.empty());
    for (const auto& [block, size] : live) heap.deallocate(block);
    heap.release_free_pages();
    EXPECT_EQ(heap.committed_bytes(), 0u);
    EXPECT_EQ(take(heap, kPages * kPage), pages.begin());
  }
}

/// The sizes and lifetimes of training steps: values and moments that stay; activations that pile
/// up in forward; gradients that pile up in backward while activations go.
TEST(BlockHeap, LosesLittleToGapsInTraining) {
  FakePages pages(size_t{1} << 16);
  BlockHeap heap(pages, kAlign);
  size_t live = 0, peak = 0;
  std::map<char*, size_t> sizes;
  const auto give = [&](size_t bytes) {
    char* const block = take(heap, bytes);
    live += sizes[block] = bytes;
    peak = std::max(peak, live);
    return block;
  };
  const auto end = [&](char* block) {
    live -= sizes[block];
    heap.deallocate(block);
  };
  constexpr int kLayers = 8;
  constexpr size_t kWidth = 192, kHidden = 500, kClasses = 3000;
  const std::vector<size_t> weights = {4 * kWidth,           4 * kWidth * kWidth * 3,
                                       4 * kWidth * kWidth,  4 * kWidth * kHidden,
                                       4 * kWidth * kHidden, 4 * kWidth * kHidden};
  for (int copy = 0; copy < 3; ++copy) {  // values and two moments
    give(4 * kWidth * kClasses);
    for (int layer = 0; layer < kLayers; ++layer)
      for (const size_t bytes : weights) give(bytes);
  }
  std::vector<char*> gradients;
  size_t steady = 0;
  for (int step = 0; step < 6; ++step) {
    for (char* gradient : gradients) end(gradient);
    gradients.clear();
    const size_t tokens = 300;
    std::vector<char*> activations;
    for (int layer = 0; layer < kLayers; ++layer) {
      for (const size_t columns : {kWidth, kWidth, 3 * kWidth, kWidth, kHidden, kHidden, kHidden}) {
        activations.push_back(give(4 * tokens * columns));
        end(give(tokens * 40));  // a library's scratch memory
      }
    }
    gradients.push_back(give(4 * kWidth * kClasses));
    end(give(tokens / 4 * 4 * kClasses));
    for (int layer = 0; layer < kLayers; ++layer) {
      for (size_t i = weights.size(); i-- > 0;) {
        char* const flow = give(4 * tokens * kWidth);
        gradients.push_back(give(weights[i]));
        end(activations.back());
        activations.pop_back();
        end(flow);
      }
      end(activations.back());
      activations.pop_back();
    }
    if (step == 2) steady = heap.committed_bytes();
  }
  EXPECT_LE(heap.committed_bytes(), peak + peak / 20);
  EXPECT_EQ(heap.committed_bytes(), steady);  // and no more with every step
}

}  // namespace
}  // namespace weft
