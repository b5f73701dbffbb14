#include "ops/index_check.h"

#include <algorithm>
#include <atomic>

#include "weft/tensor/check.h"
#include "weft/tensor/dispatch.h"
#include "weft/tensor/parallel.h"

#include "ops/strided.h"

namespace weft {
namespace {

Shape position_of(int64_t element, const Shape& shape) {
  Shape position = shape;
  for (int axis = shape.rank() - 1; axis >= 0; --axis) {
    position[axis] = element % shape[axis];
    element /= shape[axis];
  }
  return position;
}

}  // namespace

void check_indices(const char* op, const char* noun, const Tensor& index, int64_t size,
                   const std::string& range) {
  if (index.device().is_cuda()) return;
  const Tensor dense = index.contiguous();
  dispatch_index(index.dtype(), op, [&]<class Index>() {
    const Index* const values = dense.data<Index>();
    const auto limit = static_cast<uint64_t>(size);  // negative indices become too large
    const auto is_outside = [limit](Index value) {
      return static_cast<uint64_t>(static_cast<int64_t>(value)) >= limit;
    };
    std::atomic<bool> found{false};
    parallel_for(0, dense.numel(), kElementwiseGrain, [&](int64_t begin, int64_t end) {
      int64_t outside = 0;
      for (int64_t i = begin; i < end; ++i) outside += is_outside(values[i]);
      if (outside > 0) found = true;
    });
    if (!found) return;
    const int64_t element = std::find_if(values, values + dense.numel(), is_outside) - values;
    throw_error<IndexError>("{}: {} {} at position {} is outside {}", op, noun, values[element],
                            position_of(element, index.shape()), range);
  });
}

}  // namespace weft
