#include "weft/tensor/allocator.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>
#include <string_view>
#include <unordered_map>

#include <sys/mman.h>
#include <unistd.h>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

#include "weft/tensor/check.h"
#include "weft/tensor/memory_limit.h"

#include "allocator_mode.h"
#include "block_heap.h"
#ifdef WEFT_HAVE_CUDA
#include "cuda/backend.h"
#endif

namespace weft {
namespace {

constexpr size_t kAlignment = 64;

// AddressSanitizer takes every use of forbidden bytes as an error: those of free blocks, and those
// between the end of what was asked for and the next block.
#ifdef __SANITIZE_ADDRESS__
constexpr size_t kGuardBytes = kAlignment;
void forbid(void* bytes, size_t count) {
  __asan_poison_memory_region(bytes, count);
}
void permit(void* bytes, size_t count) {
  __asan_unpoison_memory_region(bytes, count);
}
#else
constexpr size_t kGuardBytes = 0;
void forbid(void* /*bytes*/, size_t /*count*/) {}
void permit(void* /*bytes*/, size_t /*count*/) {}
#endif

/// Bytes taken for a request; 0 where the sum overflows.
size_t block_size(size_t bytes) {
  const size_t rounded = (bytes + kGuardBytes + kAlignment - 1) / kAlignment * kAlignment;
  return rounded < bytes ? 0 : rounded;
}

/// What the allocators of system memory share: counters, the lock and the error.
class CpuAllocator : public Allocator {
 public:
  CpuAllocator(size_t limit_bytes, bool poison) : limit_(limit_bytes), poison_(poison) {}

  void* allocate(size_t bytes, Stream /*stream*/) final {
    if (bytes == 0) return nullptr;
    const size_t size = block_size(bytes);
    void* block = nullptr;
    {
      const std::lock_guard lock(mutex_);
      if (size > 0) block = take(size);
      WEFT_CHECK(block != nullptr, OutOfMemoryError,
                 "allocator: out of memory on cpu: requested {} bytes, in use {}, reserved {}, "
                 "peak {}, limit {}",
                 bytes, stats_.allocated, reserved(), stats_.peak_allocated,
                 limit_ > 0 ? std::to_string(limit_) : std::string("none"));
      stats_.allocated += static_cast<int64_t>(size);
      stats_.peak_allocated = std::max(stats_.peak_allocated, stats_.allocated);
      peak_reserved_ = std::max(peak_reserved_, reserved());
      ++stats_.count;
    }
    permit(block, bytes);
    forbid(static_cast<char*>(block) + bytes, size - bytes);
    if (poison_) std::memset(block, 0xff, bytes);
    return block;
  }

  void deallocate(void* block, size_t /*bytes*/, Stream /*stream*/) noexcept final {
    if (block == nullptr) return;
    const std::lock_guard lock(mutex_);
    stats_.allocated -= static_cast<int64_t>(give_back(block));
  }

  void empty_cache() final {
    const std::lock_guard lock(mutex_);
    release_cached();
  }

  AllocatorStats stats() const final {
    const std::lock_guard lock(mutex_);
    AllocatorStats stats = stats_;
    stats.reserved = static_cast<int64_t>(reserved());
    stats.peak_reserved = static_cast<int64_t>(peak_reserved_);
    return stats;
  }

  void reset_peak() final {
    const std::lock_guard lock(mutex_);
    stats_.peak_allocated = stats_.allocated;
    peak_reserved_ = reserved();
  }

 protected:
  /// A block of a multiple of the alignment; null where memory is short.
  virtual void* take(size_t size) = 0;
  /// The size of the block.
  virtual size_t give_back(void* block) = 0;
  virtual void release_cached() = 0;
  virtual size_t reserved() const = 0;

  const size_t limit_;  // 0 means none

 private:
  const bool poison_;
  mutable std::mutex mutex_;
  AllocatorStats stats_;  // but for what is reserved
  size_t peak_reserved_ = 0;
};

/// Every block straight from the system and back, for memory checkers.
class DirectCpuAllocator final : public CpuAllocator {
 public:
  using CpuAllocator::CpuAllocator;

 private:
  void* take(size_t size) override {
    if (limit_ > 0 && reserved_ + size > limit_) return nullptr;
    void* const block = ::operator new(size, std::align_val_t(kAlignment), std::nothrow);
    if (block == nullptr) return nullptr;
    sizes_.emplace(block, size);
    reserved_ += size;
    return block;
  }

  size_t give_back(void* block) override {
    const auto found = sizes_.find(block);
    const size_t size = found->second;
    sizes_.erase(found);
    reserved_ -= size;
    permit(block, size);
    ::operator delete(block, std::align_val_t(kAlignment));
    return size;
  }

  void release_cached() override {}
  size_t reserved() const override { return reserved_; }

  std::unordered_map<void*, size_t> sizes_;
  size_t reserved_ = 0;
};

/// Addresses of the process, in pages as large as the huge ones of x86-64: the system fills one in
/// a single fault, and blocks reach into few pages of the address translation.
class SystemPages final : public PageRange {
 public:
  static constexpr size_t kPageBytes = size_t{2} << 20;

  /// Twice the physical memory, since addresses have holes where decommitted pages were; less where
  /// the process may not have so many.
  SystemPages() {
    const auto physical = static_cast<size_t>(std::max(sysconf(_SC_PHYS_PAGES), 1L)) *
                          static_cast<size_t>(sysconf(_SC_PAGESIZE));
    count_ = 2 * physical / kPageBytes + 1;
    do {
      mapped_ = map(nullptr, (count_ + 1) * kPageBytes, /*flags=*/0);
      if (mapped_ != nullptr) break;
      count_ /= 2;
    } while (count_ > 0);
    const auto address = reinterpret_cast<uintptr_t>(mapped_);
    begin_ = mapped_ + (kPageBytes - address % kPageBytes) % kPageBytes;
  }
  ~SystemPages() override {
    if (mapped_ != nullptr) munmap(mapped_, (count_ + 1) * kPageBytes);
  }
  SystemPages(const SystemPages&) = delete;
  SystemPages& operator=(const SystemPages&) = delete;

  char* begin() const override { return begin_; }
  size_t page_bytes() const override { return kPageBytes; }
  size_t page_count() const override { return count_; }

  bool commit(size_t first_page, size_t count) override {
    char* const from = begin_ + first_page * kPageBytes;
    if (mprotect(from, count * kPageBytes, PROT_READ | PROT_WRITE) != 0) return false;
#ifdef MADV_HUGEPAGE
    madvise(from, count * kPageBytes, MADV_HUGEPAGE);  // works as well where it is refused
#endif
    return true;
  }

  void decommit(size_t first_page, size_t count) noexcept override {
    char* const from = begin_ + first_page * kPageBytes;
    permit(from, count * kPageBytes);
    // The second way keeps the pages usable; it is for processes with too many mappings.
    if (map(from, count * kPageBytes, MAP_FIXED) == nullptr)
      madvise(from, count * kPageBytes, MADV_DONTNEED);
  }

 private:
  /// Addresses without memory behind them.
  static char* map(char* at, size_t bytes, int flags) {
    void* const mapped =
        mmap(at, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | flags, -1, 0);
    return mapped == MAP_FAILED ? nullptr : static_cast<char*>(mapped);
  }

  char* mapped_ = nullptr;
  char* begin_ = nullptr;
  size_t count_ = 0;
};

/// Keeps the memory of freed blocks for later ones: a training step asks for the same sizes again
/// and again, and fresh pages from the system cost more than the kernels that first write them.
class CachingCpuAllocator final : public CpuAllocator {
 public:
  CachingCpuAllocator(size_t limit_bytes, bool poison)
      : CpuAllocator(limit_bytes, poison),
        heap_(pages_, kAlignment, (limit_bytes + pages_.page_bytes() - 1) / pages_.page_bytes()) {}
  ~CachingCpuAllocator() override { heap_.release_free_pages(); }

 private:
  void* take(size_t size) override { return heap_.allocate(size); }
  size_t give_back(void* block) override {
    const size_t size = heap_.deallocate(block);
    forbid(block, size);
    return size;
  }
  void release_cached() override { heap_.release_free_pages(); }
  size_t reserved() const override { return heap_.committed_bytes(); }

  SystemPages pages_;
  BlockHeap heap_;
};

}  // namespace

std::unique_ptr<Allocator> make_cpu_allocator(size_t limit_bytes, bool caching, bool poison) {
  if (!caching) return std::make_unique<DirectCpuAllocator>(limit_bytes, poison);
  return std::make_unique<CachingCpuAllocator>(limit_bytes, poison);
}

AllocatorMode allocator_mode() {
  const char* const mode = std::getenv("WEFT_ALLOCATOR");
  const std::string_view name = mode == nullptr ? "caching" : mode;
  if (name == "caching") return AllocatorMode::caching;
  if (name == "direct") return AllocatorMode::direct;
  if (name == "poison") return AllocatorMode::poison;
  throw_error<ConfigError>("WEFT_ALLOCATOR: '{}' is unknown; allowed are caching, direct, poison",
                           name);
}

void set_cuda_memory_limit(Device device, size_t bytes) {
  check_available(device);
  WEFT_CHECK(device.is_cuda(), DeviceError, "set_cuda_memory_limit: {} is no GPU", device);
#ifdef WEFT_HAVE_CUDA
  cuda::set_memory_limit(device.index, bytes);
#else
  static_cast<void>(bytes);
#endif
}

Allocator& allocator(Device device) {
#ifdef WEFT_HAVE_CUDA
  if (device.is_cuda()) return cuda::allocator(device.index);
#endif
  check_available(device);
  // Leaked on purpose: tensors in static variables of a program may outlive any order of
  // destruction here.
  static Allocator* const cpu = [] {
    const AllocatorMode mode = allocator_mode();
    return make_cpu_allocator(0, mode != AllocatorMode::direct, mode == AllocatorMode::poison)
        .release();
  }();
  return *cpu;
}

}  // namespace weft
