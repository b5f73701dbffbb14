#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "weft/tensor/parallel.h"

namespace weft::optim {

/// Cuts a list of arrays into blocks, so that one parallel region walks all of them with equal
/// shares for all threads, however uneven the arrays are. Blocks begin at multiples of kBlock of
/// their own array: what is computed from a block depends on neither the threads nor the other
/// arrays.
class BlockList {
 public:
  static constexpr int64_t kBlock = 4096;

  void add(int64_t size) {
    starts_.push_back(total_);
    first_blocks_.push_back(num_blocks_);
    total_ += size;
    num_blocks_ += (size + kBlock - 1) / kBlock;
  }

  int64_t num_blocks() const { return num_blocks_; }
  /// Blocks of one array are consecutive: first_block(array) to first_block(array + 1).
  int64_t first_block(size_t array) const {
    return array < first_blocks_.size() ? first_blocks_[array] : num_blocks_;
  }

  /// Calls body(array, begin, end) for the blocks of all arrays, on all threads.
  template <class Body>
  void for_each(Body&& body) const {
    parallel_for(0, total_, kGrain, [&](int64_t from, int64_t to) {
      // A thread takes the blocks that begin in its share of the elements.
      const auto after = std::upper_bound(starts_.begin(), starts_.end(), from);
      for (auto array = static_cast<size_t>(after - starts_.begin() - 1);
           array < starts_.size() && starts_[array] < to; ++array) {
        const int64_t size =
            (array + 1 < starts_.size() ? starts_[array + 1] : total_) - starts_[array];
        int64_t begin = std::max<int64_t>(from - starts_[array], 0);
        begin = (begin + kBlock - 1) / kBlock * kBlock;
        for (; begin < size && starts_[array] + begin < to; begin += kBlock)
          body(array, begin, std::min(begin + kBlock, size));
      }
    });
  }

 private:
  static constexpr int64_t kGrain =
      4 * kBlock;  // below this a second thread costs more than it saves

  std::vector<int64_t> starts_;        // in elements over all arrays
  std::vector<int64_t> first_blocks_;  // in blocks over all arrays
  int64_t total_ = 0;
  int64_t num_blocks_ = 0;
};

/// The blocks of the field `member` of each item.
template <class Items, class Member>
BlockList blocks_of(const Items& items, Member member) {
  BlockList blocks;
  for (const auto& item : items) blocks.add((item.*member).numel());
  return blocks;
}

}  // namespace weft::optim
