#include <algorithm>
#include <map>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <utility>

#include "weft/tensor/check.h"
#include "weft/tensor/graph.h"
#include "weft/tensor/ops/linear.h"
#include "weft/tensor/ops/low_precision_copies.h"

#include "ops/gemm.h"

namespace weft {

/// The copy of one tensor in one type.
struct LowPrecisionEntry {
  const std::weak_ptr<Storage> storage;  // of the original
  const Layout layout;
  const DType from;
  const DType to;
  std::mutex mutex{};    // of what follows
  Tensor copy{};         // undefined until it is made
  uint64_t version = 0;  // of the storage

  bool is_of(const Tensor& source, DType dtype) const {
    return from == source.dtype() && to == dtype && layout.offset == source.offset() &&
           layout.shape == source.shape() && layout.strides == source.strides() &&
           !storage.expired();
  }
  /// What is to be converted, while its storage lives.
  Tensor source(std::shared_ptr<Storage> alive) const {
    return Tensor(std::move(alive), layout, from);
  }

  /// The copy of the present elements, made or brought up to date where necessary.
  Tensor up_to_date(const Tensor& source) {
    const std::lock_guard lock(mutex);
    if (copy.defined() && version == source.version()) {
      keep_for_capture(copy);
      return copy;
    }
    // What a graph writes is there after a replay only.
    if (is_capturing()) return source.to(to);
    const uint64_t present = source.version();
    if (copy.defined()) {
      copy.copy_(source);
    } else {
      copy = source.to(to);
    }
    version = present;
    return copy;
  }

  void mark(uint64_t present) {
    const std::lock_guard lock(mutex);
    version = present;
    copy.storage()->bump_version();
  }
};

namespace {

using Entry = std::shared_ptr<LowPrecisionEntry>;

class EntryMap {
 public:
  Entry find_or_add(const Tensor& source, DType dtype) {
    std::vector<Entry> dropped;  // freed without the lock
    const std::lock_guard lock(mutex_);
    const auto [first, last] = entries_.equal_range(source.storage().get());
    for (auto at = first; at != last; ++at)
      if (at->second->is_of(source, dtype)) return at->second;
    for (auto at = entries_.begin(); at != entries_.end();) {
      const auto next = std::next(at);
      if (at->second->storage.expired()) {
        dropped.push_back(std::move(at->second));
        entries_.erase(at);
      }
      at = next;
    }
    Entry added(new LowPrecisionEntry{source.storage(), source.layout(), source.dtype(), dtype});
    entries_.emplace(source.storage().get(), added);
    return added;
  }

  /// Those whose copies are up to date.
  std::vector<Entry> current_of(const std::shared_ptr<Storage>& storage) {
    std::vector<Entry> found;
    const std::lock_guard lock(mutex_);
    const auto [first, last] = entries_.equal_range(storage.get());
    for (auto at = first; at != last; ++at) {
      LowPrecisionEntry& entry = *at->second;
      if (entry.storage.expired()) continue;
      const std::lock_guard entry_lock(entry.mutex);
      if (entry.copy.defined() && entry.version == storage->version()) found.push_back(at->second);
    }
    return found;
  }

  void clear() {
    std::unordered_multimap<const Storage*, Entry> dropped;
    const std::lock_guard lock(mutex_);
    dropped.swap(entries_);
  }

 private:
  std::mutex mutex_;
  std::unordered_multimap<const Storage*, Entry> entries_;
};

EntryMap& entries() {
  static EntryMap map;
  return map;
}

bool has_dense_columns(const Tensor& matrix) {
  return matrix.rank() == 2 && matrix.stride(0) == 1 && matrix.stride(1) != 1;
}

/// Elements [begin, end) of a storage: those of weight number `index`.
struct Range {
  int64_t begin;
  int64_t end;
  size_t index;
};

/// The ranges that have elements in [begin, end). `ranges` are in order and disjoint.
std::span<const Range> meeting(const std::vector<Range>& ranges, int64_t begin, int64_t end) {
  const auto first = std::partition_point(ranges.begin(), ranges.end(),
                                          [&](const Range& range) { return range.end <= begin; });
  const auto last = std::partition_point(first, ranges.end(),
                                         [&](const Range& range) { return range.begin < end; });
  return {first, last};
}

/// Whether no element is in two ranges.
bool are_disjoint(const std::vector<Range>& ranges) {
  for (size_t i = 1; i < ranges.size(); ++i)
    if (ranges[i].begin < ranges[i - 1].end) return false;
  return true;
}

}  // namespace

Tensor low_precision_copy(const Tensor& weight, DType dtype) {
  WEFT_CHECK(weight.defined(), ShapeError, "low_precision_copy: undefined tensor");
  if (weight.dtype() == dtype) return weight;
  // A weight and its transpose share one copy.
  if (has_dense_columns(weight))
    return low_precision_copy(weight.transpose(0, 1), dtype).transpose(0, 1);
  return entries().find_or_add(weight, dtype)->up_to_date(weight);
}

void clear_low_precision_copies() {
  entries().clear();
  clear_packed_weights_cpu();
}

LowPrecisionCopies::LowPrecisionCopies(std::span<const Tensor> weights) : slices_(weights.size()) {
  std::map<std::shared_ptr<Storage>, std::vector<Range>> changed;
  for (size_t i = 0; i < weights.size(); ++i) {
    const Tensor& weight = weights[i];
    std::vector<Range>& ranges = changed[weight.storage()];
    if (weight.numel() > 0)
      ranges.push_back({weight.offset(), weight.offset() + weight.numel(), i});
  }
  for (auto& [storage, ranges] : changed) {
    storages_.push_back(storage);
    std::sort(ranges.begin(), ranges.end(),
              [](const Range& a, const Range& b) { return a.begin < b.begin; });
    if (!are_disjoint(ranges)) continue;
    for (const Entry& entry : entries().current_of(storage)) {
      if (!entry->source(storage).is_contiguous()) continue;
      const int64_t begin = entry->layout.offset;
      const int64_t end = begin + entry->layout.shape.numel();
      const std::span<const Range> written = meeting(ranges, begin, end);
      const auto can_be_written = [&](const Range& range) {
        return begin <= range.begin && range.end <= end &&
               weights[range.index].dtype() == entry->from;
      };
      if (!std::all_of(written.begin(), written.end(), can_be_written)) continue;
      for (const Range& range : written) {
        const Shape& shape = weights[range.index].shape();
        slices_[range.index].emplace_back(
            entry->copy.storage(),
            Layout{shape, contiguous_strides(shape), entry->copy.offset() + range.begin - begin},
            entry->to);
      }
      entries_.push_back(entry);
    }
  }
  std::sort(entries_.begin(), entries_.end());
}

void LowPrecisionCopies::mark_written() {
  for (const std::shared_ptr<Storage>& storage : storages_) storage->bump_version();
  for (const Entry& entry : entries_)
    if (const auto storage = entry->storage.lock()) entry->mark(storage->version());
}

void LowPrecisionCopies::mark_replayed(std::span<const LowPrecisionCopies> captured) {
  std::vector<Entry> in_all;
  for (const LowPrecisionCopies& copies : captured) {
    for (const Entry& entry : copies.entries_) {
      if (const auto storage = entry->storage.lock()) entry->up_to_date(entry->source(storage));
    }
    std::vector<Entry> common;
    std::set_intersection(in_all.begin(), in_all.end(), copies.entries_.begin(),
                          copies.entries_.end(), std::back_inserter(common));
    in_all = &copies == captured.data() ? copies.entries_ : std::move(common);
  }
  for (const LowPrecisionCopies& copies : captured)
    for (const std::shared_ptr<Storage>& storage : copies.storages_) storage->bump_version();
  for (const Entry& entry : in_all)
    if (const auto storage = entry->storage.lock()) entry->mark(storage->version());
}

}  // namespace weft
