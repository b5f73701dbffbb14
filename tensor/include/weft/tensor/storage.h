#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "weft/tensor/allocator.h"
#include "weft/tensor/device.h"

namespace weft {

/// Owns the bytes that one or more tensors view. Not copied; tensors share it by std::shared_ptr.
class Storage {
 public:
  /// Uninitialised bytes from the device's allocator.
  Storage(size_t bytes, Device device);
  /// Bytes that somebody else owns; `owner` is kept alive as long as the storage.
  Storage(void* data, size_t bytes, Device device, std::shared_ptr<void> owner);
  ~Storage();
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  Device device() const { return device_; }

  /// Grows with every in-place change; autograd compares it to catch damage to what backward needs.
  uint64_t version() const { return version_.load(std::memory_order_relaxed); }
  void bump_version() { version_.fetch_add(1, std::memory_order_relaxed); }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
  Device device_;
  Allocator* allocator_ = nullptr;  // null for bytes of somebody else
  std::shared_ptr<void> owner_;
  std::atomic<uint64_t> version_{0};
};

}  // namespace weft
