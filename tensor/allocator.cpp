#include "weft/tensor/allocator.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <new>
#include <string_view>

#include "weft/tensor/check.h"

namespace weft {
namespace {

constexpr size_t kAlignment = 64;

/// Keeps freed blocks for later requests of a similar size: a training step asks for the same sizes
/// again and again, and fresh pages from the system cost more than the kernels that first write
/// them.
class CpuAllocator final : public Allocator {
 public:
  CpuAllocator(size_t limit_bytes, bool caching, bool poison)
      : limit_(static_cast<int64_t>(limit_bytes)), caching_(caching), poison_(poison) {}
  ~CpuAllocator() override { CpuAllocator::empty_cache(); }

  void* allocate(size_t bytes, Stream /*stream*/) override {
    if (bytes == 0) return nullptr;
    const size_t size = block_size(bytes);
    void* pointer = nullptr;
    {
      std::lock_guard lock(mutex_);
      pointer = take_cached(size);
      if (pointer == nullptr) pointer = take_from_system(size, bytes);
      stats_.allocated += static_cast<int64_t>(sizes_.at(pointer));
      stats_.peak_allocated = std::max(stats_.peak_allocated, stats_.allocated);
      ++stats_.count;
    }
    if (poison_) std::memset(pointer, 0xff, size);
    return pointer;
  }

  void deallocate(void* pointer, size_t /*bytes*/, Stream /*stream*/) noexcept override {
    if (pointer == nullptr) return;
    std::lock_guard lock(mutex_);
    const size_t size = sizes_.at(pointer);
    stats_.allocated -= static_cast<int64_t>(size);
    if (caching_) {
      free_blocks_.emplace(size, pointer);
    } else {
      give_back(pointer, size);
    }
  }

  void empty_cache() override {
    std::lock_guard lock(mutex_);
    release_cached();
  }

  AllocatorStats stats() const override {
    std::lock_guard lock(mutex_);
    return stats_;
  }

  void reset_peak() override {
    std::lock_guard lock(mutex_);
    stats_.peak_allocated = stats_.allocated;
    stats_.peak_reserved = stats_.reserved;
  }

 private:
  /// Rounds up to one of eight sizes per power of two, so that requests of nearly the same size
  /// share blocks while at most an eighth of a block is unused.
  static size_t block_size(size_t bytes) {
    const size_t step = std::max<size_t>(kAlignment, std::bit_ceil(bytes) / 16);
    return (bytes + step - 1) / step * step;
  }

  /// The smallest cached block that fits, as long as it wastes at most an eighth (or 4 KiB) of
  /// itself.
  void* take_cached(size_t size) {
    const auto found = free_blocks_.lower_bound(size);
    if (found == free_blocks_.end() || found->first > size + std::max<size_t>(size / 8, 4096))
      return nullptr;
    void* pointer = found->second;
    free_blocks_.erase(found);
    return pointer;
  }

  void* take_from_system(size_t size, size_t requested) {
    const auto bytes = static_cast<int64_t>(size);
    if (limit_ > 0 && stats_.reserved + bytes > limit_) release_cached();
    void* pointer = nullptr;
    if (limit_ == 0 || stats_.reserved + bytes <= limit_) pointer = system_allocate(size);
    if (pointer == nullptr) {
      release_cached();
      if (limit_ == 0 || stats_.reserved + bytes <= limit_) pointer = system_allocate(size);
    }
    WEFT_CHECK(pointer != nullptr, OutOfMemoryError,
               "allocator: out of memory on cpu: requested {} bytes, in use {}, reserved {}, peak "
               "{}, limit {}",
               requested, stats_.allocated, stats_.reserved, stats_.peak_allocated,
               limit_ > 0 ? std::to_string(limit_) : std::string("none"));
    sizes_.emplace(pointer, size);
    stats_.reserved += bytes;
    stats_.peak_reserved = std::max(stats_.peak_reserved, stats_.reserved);
    return pointer;
  }

  static void* system_allocate(size_t size) {
    return ::operator new(size, std::align_val_t(kAlignment), std::nothrow);
  }

  void release_cached() {
    for (const auto& [size, pointer] : free_blocks_) give_back(pointer, size);
    free_blocks_.clear();
  }

  void give_back(void* pointer, size_t size) {
    sizes_.erase(pointer);
    stats_.reserved -= static_cast<int64_t>(size);
    ::operator delete(pointer, std::align_val_t(kAlignment));
  }

  mutable std::mutex mutex_;
  std::multimap<size_t, void*> free_blocks_;
  std::map<void*, size_t> sizes_;  // every block of the system, handed out or cached
  AllocatorStats stats_;
  int64_t limit_;
  bool caching_;
  bool poison_;
};

}  // namespace

std::unique_ptr<Allocator> make_cpu_allocator(size_t limit_bytes, bool caching, bool poison) {
  return std::make_unique<CpuAllocator>(limit_bytes, caching, poison);
}

Allocator& allocator(Device device) {
  WEFT_CHECK(device.is_cpu(), DeviceError, "allocator: {} is not available in this build", device);
  // Leaked on purpose: tensors in static variables of a program may outlive any order of
  // destruction here.
  static Allocator* const cpu = [] {
    const char* mode = std::getenv("WEFT_ALLOCATOR");
    const std::string_view name = mode == nullptr ? "caching" : mode;
    WEFT_CHECK(name == "caching" || name == "direct" || name == "poison", ConfigError,
               "WEFT_ALLOCATOR: '{}' is unknown; allowed are caching, direct, poison", name);
    return make_cpu_allocator(0, name != "direct", name == "poison").release();
  }();
  return *cpu;
}

}  // namespace weft
