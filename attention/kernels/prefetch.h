#pragma once

#include <algorithm>
#include <cstdint>

namespace weft::attention {

/// Rows of tensors that will be needed soon. A computation calls step() now and then, and each time
/// a few cache lines are asked for: the heads of a row lie apart in memory, so that the hardware
/// sees no pattern, and asking for all lines at once would stall on the few outstanding misses that
/// a core can have.
class PrefetchQueue {
 public:
  void clear() {
    count_ = next_ = 0;
    lines_ = 0;
  }

  /// `rows` rows of `columns` elements, `stride` elements apart. Dropped when the queue is full.
  template <class T>
  void add(const T* data, int64_t stride, int64_t rows, int64_t columns, bool write = false) {
    if (rows <= 0 || count_ == kCapacity) return;
    const auto bytes = columns * static_cast<int64_t>(sizeof(T));
    blocks_[count_++] = {reinterpret_cast<const char*>(data),
                         stride * static_cast<int64_t>(sizeof(T)),
                         rows,
                         bytes,
                         0,
                         0,
                         write};
    lines_ += rows * ((bytes + kLine - 1) / kLine);
  }

  /// Spreads what is queued over the next `steps` calls of step().
  void spread(int64_t steps) {
    per_step_ = (lines_ + std::max<int64_t>(steps, 1) - 1) / std::max<int64_t>(steps, 1);
  }

  void step() {
    for (int64_t n = 0; n < per_step_ && next_ < count_; ++n) {
      Block& block = blocks_[next_];
      const char* const line = block.data + block.row * block.stride + block.at;
      if (block.write) {
        __builtin_prefetch(line, 1, 2);
      } else {
        __builtin_prefetch(line, 0, 2);
      }
      block.at += kLine;
      if (block.at >= block.bytes) {
        block.at = 0;
        if (++block.row == block.rows) ++next_;
      }
    }
  }

 private:
  static constexpr int kCapacity = 8;
  static constexpr int64_t kLine = 64;
  struct Block {
    const char* data;
    int64_t stride, rows, bytes, row, at;
    bool write;
  };
  Block blocks_[kCapacity];
  int count_ = 0, next_ = 0;
  int64_t lines_ = 0, per_step_ = 0;
};

}  // namespace weft::attention
