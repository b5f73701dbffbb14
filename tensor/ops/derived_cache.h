#pragma once

#include <memory>
#include <mutex>
#include <unordered_map>
#include <utility>

#include "weft/tensor/tensor.h"

namespace weft {

/// Values computed from tensors (converted or rearranged weights), each kept as long as the storage
/// it was computed from lives and is not changed. Thread-safe. Values that are out of date are
/// dropped when the next value is made.
template <class Value>
class DerivedCache {
 public:
  /// What make() gave for the present elements of `source`; `variant` tells different values of one
  /// tensor apart. Two threads that miss at once may both make one; the first is kept.
  template <class Make>
  Value get_or_make(const Tensor& source, int64_t variant, Make&& make) {
    const uint64_t version = source.version();
    {
      const std::lock_guard lock(mutex_);
      if (const Entry* found = find(source, version, variant)) return found->value;
    }
    Value value = make();
    std::unordered_multimap<const Storage*, Entry> dropped;  // freed without the lock
    const std::lock_guard lock(mutex_);
    if (const Entry* found = find(source, version, variant)) return found->value;
    for (auto entry = entries_.begin(); entry != entries_.end();) {
      const bool is_changed =
          entry->first == source.storage().get() && entry->second.version != version;
      const auto next = std::next(entry);
      if (is_changed || entry->second.storage.expired()) dropped.insert(entries_.extract(entry));
      entry = next;
    }
    entries_.emplace(source.storage().get(), Entry{source.storage(), version, source.layout(),
                                                   source.dtype(), variant, value});
    return value;
  }

  void clear() {
    std::unordered_multimap<const Storage*, Entry> dropped;
    const std::lock_guard lock(mutex_);
    dropped.swap(entries_);
  }

 private:
  struct Entry {
    std::weak_ptr<Storage> storage;  // tells a dead storage from a new one at the same address
    uint64_t version;
    Layout layout;
    DType dtype;
    int64_t variant;
    Value value;
  };

  const Entry* find(const Tensor& source, uint64_t version, int64_t variant) const {
    const auto [first, last] = entries_.equal_range(source.storage().get());
    for (auto entry = first; entry != last; ++entry) {
      const Entry& found = entry->second;
      if (found.version == version && found.variant == variant && found.dtype == source.dtype() &&
          found.layout.offset == source.offset() && found.layout.shape == source.shape() &&
          found.layout.strides == source.strides() && !found.storage.expired())
        return &found;
    }
    return nullptr;
  }

  std::mutex mutex_;
  std::unordered_multimap<const Storage*, Entry> entries_;
};

}  // namespace weft
