#include "cuda/pinned_memory.h"

#include <algorithm>
#include <bit>
#include <iterator>
#include <map>
#include <mutex>
#include <vector>

#include "weft/tensor/check.h"

#include "cuda/backend.h"
#include "cuda/device_context.h"
#include "cuda/relaxed_capture.h"

namespace weft::cuda {
namespace {

/// A use that may still run.
struct Use {
  void* stream;
  cudaEvent_t event;
};

struct Block {
  size_t bytes;
  bool is_free = false;
  std::vector<Use> uses{};
};

/// Blocks by powers of two; what was taken from the system is kept, since locking pages is slow.
class PinnedPool {
 public:
  void* take(size_t bytes) {
    const size_t size = std::bit_ceil(std::max<size_t>(bytes, 4096));
    leave_unused_device();  // page-locking and events need some context
    const std::lock_guard lock(mutex_);
    const RelaxedCapture relaxed;
    for (auto& [data, block] : blocks_) {
      if (!block.is_free || block.bytes != size || !is_done(block)) continue;
      block.is_free = false;
      return data;
    }
    void* data = nullptr;
    const cudaError_t status = cudaHostAlloc(&data, size, cudaHostAllocPortable);
    if (status != cudaSuccess) cudaGetLastError();
    WEFT_CHECK(status == cudaSuccess, OutOfMemoryError,
               "allocator: {} bytes of page-locked memory: {} ({})", size, cudaGetErrorName(status),
               cudaGetErrorString(status));
    blocks_.emplace(static_cast<char*>(data), Block{size});
    return data;
  }

  void give_back(void* data) {
    const std::lock_guard lock(mutex_);
    blocks_.at(static_cast<char*>(data)).is_free = true;
  }

  bool has(const void* data) {
    const std::lock_guard lock(mutex_);
    return find(data) != nullptr;
  }

  bool note_use(const void* data, Stream stream) {
    const std::lock_guard lock(mutex_);
    Block* const block = find(data);
    if (block == nullptr) return false;
    std::vector<Use>& uses = block->uses;
    auto use = std::find_if(uses.begin(), uses.end(), [&](const Use& other) {
      return other.stream == stream.native_handle();
    });
    if (use == uses.end()) {
      auto* const event =
          static_cast<cudaEvent_t>(make_event(stream.device().index, /*timed=*/false));
      use = uses.insert(uses.end(), Use{stream.native_handle(), event});
    }
    record_event(use->event, stream);
    return true;
  }

 private:
  /// The block that the address is in, or null.
  Block* find(const void* data) {
    auto* const at = static_cast<char*>(const_cast<void*>(data));
    const auto found = blocks_.upper_bound(at);
    if (found == blocks_.begin()) return nullptr;
    auto& [begin, block] = *std::prev(found);
    return at < begin + block.bytes ? &block : nullptr;
  }

  static bool is_done(Block& block) {
    for (const Use& use : block.uses) {
      if (cudaEventQuery(use.event) == cudaSuccess) continue;
      cudaGetLastError();
      return false;
    }
    for (const Use& use : block.uses) destroy_event(use.event);
    block.uses.clear();
    return true;
  }

  std::mutex mutex_;
  std::map<char*, Block> blocks_;  // by address
};

/// Leaked on purpose, as the device contexts are.
PinnedPool& pool() {
  static auto* const pool = new PinnedPool;
  return *pool;
}

}  // namespace

std::shared_ptr<void> allocate_pinned(size_t bytes) {
  return {pool().take(bytes), [](void* data) { pool().give_back(data); }};
}

bool is_pinned(const void* data) {
  return pool().has(data);
}

bool note_pinned_use(const void* data, Stream stream) {
  return pool().note_use(data, stream);
}

}  // namespace weft::cuda
