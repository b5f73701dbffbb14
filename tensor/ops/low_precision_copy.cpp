#include <algorithm>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "weft/tensor/check.h"
#include "weft/tensor/ops/linear.h"

namespace weft {
namespace {

/// A copy and the tensor it was made of. The weak pointer tells a dead storage from a new one at
/// the same address.
struct Entry {
  std::weak_ptr<Storage> storage;
  uint64_t version = 0;
  Layout layout;
  DType source_dtype = DType::f32;
  Tensor copy;

  bool is_stale() const {
    const std::shared_ptr<Storage> alive = storage.lock();
    return alive == nullptr || alive->version() != version;
  }
  bool is_copy_of(const Tensor& tensor, DType dtype) const {
    return copy.dtype() == dtype && source_dtype == tensor.dtype() &&
           layout.offset == tensor.offset() && layout.shape == tensor.shape() &&
           layout.strides == tensor.strides() && storage.lock() == tensor.storage();
  }
};

struct Cache {
  std::mutex mutex;
  std::vector<Entry> entries;
};

Cache& cache() {
  static Cache instance;
  return instance;
}

}  // namespace

Tensor low_precision_copy(const Tensor& weight, DType dtype) {
  WEFT_CHECK(weight.defined(), ShapeError, "low_precision_copy: undefined tensor");
  if (weight.dtype() == dtype) return weight;
  const uint64_t version = weight.version();
  {
    const std::lock_guard lock(cache().mutex);
    for (const Entry& entry : cache().entries) {
      if (entry.version == version && entry.is_copy_of(weight, dtype)) return entry.copy;
    }
  }
  const Tensor copy = weight.to(dtype);
  const std::lock_guard lock(cache().mutex);
  std::erase_if(cache().entries, [](const Entry& entry) { return entry.is_stale(); });
  cache().entries.push_back({weight.storage(), version, weight.layout(), weight.dtype(), copy});
  return copy;
}

void clear_low_precision_copies() {
  std::vector<Entry> dropped;
  const std::lock_guard lock(cache().mutex);
  dropped.swap(cache().entries);
}

}  // namespace weft
