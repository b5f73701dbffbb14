#include "weft/tensor/storage.h"

#include <utility>

namespace weft {

Storage::Storage(size_t bytes, Device device)
    : bytes_(bytes), device_(device), allocator_(&allocator(device)) {
  data_ = allocator_->allocate(bytes, current_stream(device));
}

Storage::Storage(void* data, size_t bytes, Device device, std::shared_ptr<void> owner)
    : data_(data), bytes_(bytes), device_(device), owner_(std::move(owner)) {}

Storage::~Storage() {
  if (allocator_ != nullptr) allocator_->deallocate(data_, bytes_, current_stream(device_));
}

}  // namespace weft
