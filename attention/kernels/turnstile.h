#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>

namespace weft::attention {

/// Lets tasks add to shared sums one after the other, in an order that does not depend on timing:
/// each gate names whose turn it is. Tasks that wait for each other must start in the order of
/// their turns.
class Turnstile {
 public:
  explicit Turnstile(int64_t gates) : next_(new std::atomic<int64_t>[static_cast<size_t>(gates)]) {}
  void open(int64_t gate, int64_t turn) { next_[gate].store(turn, std::memory_order_relaxed); }
  void wait(int64_t gate, int64_t turn) const {
    while (next_[gate].load(std::memory_order_acquire) != turn) std::this_thread::yield();
  }
  void pass(int64_t gate, int64_t next_turn) {
    next_[gate].store(next_turn, std::memory_order_release);
  }

 private:
  std::unique_ptr<std::atomic<int64_t>[]> next_;
};

}  // namespace weft::attention
