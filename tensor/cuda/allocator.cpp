#include "cuda/allocator.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string_view>

#include "weft/tensor/check.h"
#include "weft/tensor/graph.h"

#include "allocator_mode.h"
#include "cuda/backend.h"
#include "cuda/device_context.h"
#include "cuda/mapped_pages.h"
#include "cuda/stream_heaps.h"

namespace weft::cuda {
namespace {

constexpr size_t kAlignment = 256;

std::string readable(size_t bytes) {
  constexpr double kMiB = 1 << 20;
  const double mib = static_cast<double>(bytes) / kMiB;
  return mib < 1024 ? fmt::format("{:.1f} MiB", mib) : fmt::format("{:.2f} GiB", mib / 1024);
}

/// What the allocators of a GPU share: counters, the lock and the error.
class CudaAllocator : public Allocator {
 public:
  CudaAllocator(Device device, const AllocatorOptions& options)
      : device_(device), options_(options) {}

  void* allocate(size_t bytes, Stream stream) final {
    if (bytes == 0) return nullptr;
    // A checker is to see the first byte beyond the tensor as out of bounds.
    const size_t multiple = options_.caching ? kAlignment : 1;
    const size_t size = (bytes + multiple - 1) / multiple * multiple;
    const DeviceGuard guard(device_.index);
    void* block = nullptr;
    {
      const std::lock_guard lock(mutex_);
      if (size >= bytes) block = take(size, stream);
      if (block == nullptr) throw_out_of_memory(bytes);
      stats_.allocated += static_cast<int64_t>(size);
      stats_.peak_allocated = std::max(stats_.peak_allocated, stats_.allocated);
      peak_reserved_ = std::max(peak_reserved_, reserved());
      ++stats_.count;
    }
    if (options_.poison) WEFT_CUDA_CHECK(cudaMemsetAsync(block, 0xff, bytes, native(stream)));
    return block;
  }

  void deallocate(void* block, size_t /*bytes*/, Stream stream) noexcept final {
    if (block == nullptr) return;
    const DeviceGuard guard(device_.index, std::nothrow);
    const std::lock_guard lock(mutex_);
    stats_.allocated -= static_cast<int64_t>(give_back(block, stream));
  }

  void empty_cache() final {
    const DeviceGuard guard(device_.index);
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

  void set_limit(size_t bytes) {
    const std::lock_guard lock(mutex_);
    options_.limit_bytes = bytes;
    apply_limit(bytes);
  }

  // Memory of graphs; allocators that cannot give it take part in no capture.
  virtual void* open_graph() {
    throw_error<CaptureError>(
        "graph: needs the caching allocator; unset WEFT_ALLOCATOR, or the driver lacks virtual "
        "memory");
  }
  virtual void begin_capture(void* /*heap*/, Stream /*stream*/) {}
  virtual void end_capture(Stream /*stream*/) {}
  virtual void close_graph(void* /*heap*/) noexcept {}

 protected:
  /// A block, where blocks are kept of a multiple of the alignment; null where memory is short.
  virtual void* take(size_t size, Stream stream) = 0;
  /// The size of the block.
  virtual size_t give_back(void* block, Stream stream) noexcept = 0;
  virtual void apply_limit(size_t /*bytes*/) {}
  virtual void release_cached() = 0;
  virtual size_t reserved() const = 0;

  const Device device_;
  AllocatorOptions options_;
  mutable std::mutex mutex_;
  AllocatorStats stats_;  // but for what is reserved

 private:
  [[noreturn]] void throw_out_of_memory(size_t bytes) const {
    size_t free = 0;
    size_t total = 0;
    if (cudaMemGetInfo(&free, &total) != cudaSuccess) cudaGetLastError();
    const auto allocated = static_cast<size_t>(stats_.allocated);
    throw_error<OutOfMemoryError>(
        "allocator: out of memory on {}: requested {} ({} bytes); of {} on the card {} are free, "
        "tensors hold {}, cached are {}, the peak was {}, the limit is {}",
        device_, readable(bytes), bytes, readable(total), readable(free), readable(allocated),
        readable(reserved() - std::min(allocated, reserved())),
        readable(static_cast<size_t>(stats_.peak_allocated)),
        options_.limit_bytes > 0 ? readable(options_.limit_bytes) : "none");
  }

  size_t peak_reserved_ = 0;
};

/// Keeps freed memory in heaps, one a stream.
class CachingCudaAllocator final : public CudaAllocator {
 public:
  CachingCudaAllocator(Device device, const AllocatorOptions& options)
      : CudaAllocator(device, options),
        heaps_([index = device.index] { return make_mapped_pages(index); }, kAlignment,
               options.limit_bytes) {
    const DeviceGuard guard(device.index);
    WEFT_CUDA_CHECK(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming));
  }
  ~CachingCudaAllocator() override { cudaEventDestroy(event_); }

  void* open_graph() override {
    const std::lock_guard lock(mutex_);
    return heaps_.open();
  }
  void begin_capture(void* heap, Stream stream) override {
    const std::lock_guard lock(mutex_);
    heaps_.begin_capture(static_cast<StreamHeaps::Heap*>(heap), stream.native_handle());
  }
  void end_capture(Stream stream) override {
    const std::lock_guard lock(mutex_);
    heaps_.end_capture(stream.native_handle());
  }
  void close_graph(void* heap) noexcept override {
    const std::lock_guard lock(mutex_);
    stats_.allocated -= static_cast<int64_t>(heaps_.close(static_cast<StreamHeaps::Heap*>(heap)));
  }

 private:
  void* take(size_t size, Stream stream) override {
    return heaps_.allocate(size, stream.native_handle());
  }

  size_t give_back(void* block, Stream stream) noexcept override {
    void* const owner = heaps_.stream_of(block);
    if (owner != stream.native_handle() && owner != nullptr && !is_recording(stream) &&
        !is_recording(Stream(device_, owner))) {
      // Whoever gets the block next works on its own stream, after what this one still does with
      // it.
      cudaEventRecord(event_, native(stream));
      cudaStreamWaitEvent(static_cast<cudaStream_t>(owner), event_, 0);
    }
    return heaps_.deallocate(block, stream.native_handle());
  }

  void apply_limit(size_t bytes) override { heaps_.set_limit(bytes); }
  void release_cached() override { heaps_.release_free_pages(); }
  size_t reserved() const override { return heaps_.committed_bytes(); }

  static bool is_recording(Stream stream) noexcept {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    return cudaStreamIsCapturing(native(stream), &status) == cudaSuccess &&
           status != cudaStreamCaptureStatusNone;
  }

  StreamHeaps heaps_;
  cudaEvent_t event_ = nullptr;
};

/// Every block straight from the driver and back. With a pool of the driver's own that is in the
/// order of the stream, for GPUs without virtual memory management; else by cudaMalloc and
/// cudaFree, which wait for the GPU, and let compute-sanitizer see the bounds of every block.
class DirectCudaAllocator final : public CudaAllocator {
 public:
  DirectCudaAllocator(Device device, const AllocatorOptions& options)
      : CudaAllocator(device, options), pooled_(options.caching) {
    if (!pooled_) return;
    const DeviceGuard guard(device.index);
    cudaMemPool_t pool = nullptr;
    WEFT_CUDA_CHECK(cudaDeviceGetDefaultMemPool(&pool, device.index));
    uint64_t keep = ~uint64_t{0};
    WEFT_CUDA_CHECK(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep));
  }

 private:
  void* take(size_t size, Stream stream) override {
    if (options_.limit_bytes > 0 && reserved_ + size > options_.limit_bytes) return nullptr;
    void* block = nullptr;
    const cudaError_t status =
        pooled_ ? cudaMallocAsync(&block, size, native(stream)) : cudaMalloc(&block, size);
    if (status != cudaSuccess) {
      cudaGetLastError();
      WEFT_CHECK(status == cudaErrorMemoryAllocation, CudaError,
                 "allocator: {} bytes on {} failed with {} ({})", size, device_,
                 cudaGetErrorName(status), cudaGetErrorString(status));
      return nullptr;
    }
    sizes_.emplace(block, size);
    reserved_ += size;
    return block;
  }

  size_t give_back(void* block, Stream stream) noexcept override {
    const auto found = sizes_.find(block);
    const size_t size = found->second;
    sizes_.erase(found);
    reserved_ -= size;
    if (pooled_) {
      cudaFreeAsync(block, native(stream));
    } else {
      cudaFree(block);
    }
    return size;
  }

  void release_cached() override {
    if (!pooled_) return;
    cudaMemPool_t pool = nullptr;
    WEFT_CUDA_CHECK(cudaDeviceGetDefaultMemPool(&pool, device_.index));
    WEFT_CUDA_CHECK(cudaMemPoolTrimTo(pool, 0));
  }
  size_t reserved() const override { return reserved_; }

  const bool pooled_;
  std::map<void*, size_t> sizes_;
  size_t reserved_ = 0;
};

CudaAllocator& cuda_allocator(Device device) {
  return static_cast<CudaAllocator&>(device_context(device).allocator());
}

}  // namespace

AllocatorOptions allocator_options_from_environment() {
  AllocatorOptions options;
  const AllocatorMode mode = allocator_mode();
  options.caching = mode != AllocatorMode::direct;
  options.poison = mode == AllocatorMode::poison;
  if (const char* text = std::getenv("WEFT_CUDA_MEMORY_LIMIT"); text != nullptr) {
    const std::string_view limit = text;
    const auto [end, error] =
        std::from_chars(limit.data(), limit.data() + limit.size(), options.limit_bytes);
    WEFT_CHECK(error == std::errc() && end == limit.data() + limit.size(), ConfigError,
               "WEFT_CUDA_MEMORY_LIMIT: '{}' is no number of bytes", limit);
  }
  return options;
}

std::unique_ptr<Allocator> make_cuda_allocator(Device device, const AllocatorOptions& options) {
  if (options.caching && make_mapped_pages(device.index) != nullptr)
    return std::make_unique<CachingCudaAllocator>(device, options);
  return std::make_unique<DirectCudaAllocator>(device, options);
}

void set_memory_limit(int index, size_t bytes) {
  cuda_allocator({DeviceType::cuda, index}).set_limit(bytes);
}

GraphMemory::GraphMemory(Device device)
    : device_(device), heap_(cuda_allocator(device).open_graph()) {}

GraphMemory::~GraphMemory() {
  {
    const DeviceGuard guard(device_.index, std::nothrow);
    cudaDeviceSynchronize();
  }
  cuda_allocator(device_).close_graph(heap_);
}

void GraphMemory::begin_capture(Stream stream) {
  cuda_allocator(device_).begin_capture(heap_, stream);
}

void GraphMemory::end_capture(Stream stream) {
  cuda_allocator(device_).end_capture(stream);
}

}  // namespace weft::cuda
