// Backward groups the positions by id (a counting sort, which keeps their order) and then gives
// each thread whole groups, or column blocks of groups, so that no two threads write one element
// and every element is the same sum for any number of threads.
#include <cstring>
#include <vector>

#include "weft/tensor/dispatch.h"
#include "weft/tensor/parallel.h"

#include "ops/embedding_kernels.h"
#include "ops/simd.h"
#include "ops/strided.h"

namespace weft {
namespace {

constexpr int64_t kColumns = 256;

/// Positions sorted by id.
template <class Index>
std::vector<int64_t> group_by_id(const Index* ids, int64_t count, int64_t vocabulary) {
  std::vector<int64_t> next(static_cast<size_t>(vocabulary) + 1, 0);
  for (int64_t i = 0; i < count; ++i) ++next[static_cast<size_t>(ids[i]) + 1];
  for (size_t id = 1; id < next.size(); ++id) next[id] += next[id - 1];
  std::vector<int64_t> order(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i)
    order[static_cast<size_t>(next[static_cast<size_t>(ids[i])]++)] = i;
  return order;
}

template <class T, class To, class Index>
void backward(const Tensor& dy, const Tensor& ids, Tensor& dtable) {
  using A = accumulator_t<T>;
  const int64_t count = dy.size(0);
  const int64_t length = dy.size(1);
  const int64_t stride = dy.strides()[0];
  const T* const from = dy.data<T>();
  const Index* const id = ids.data<Index>();
  To* const to = dtable.data<To>();
  const std::vector<int64_t> order = group_by_id(id, count, dtable.size(0));
  const auto id_at = [&](int64_t i) { return id[order[static_cast<size_t>(i)]]; };
  const int64_t blocks = (length + kColumns - 1) / kColumns;
  const int64_t grain = std::max<int64_t>(1, kElementwiseGrain / 4 / std::min(length, kColumns));
  // Unit u stands for place u % count of the order and column block u / count. The unit of a
  // group's first place adds up the group.
  parallel_for(0, blocks * count, grain, [&](int64_t begin, int64_t end) {
    alignas(64) A total[kColumns];
    for (int64_t unit = begin; unit < end;) {
      const int64_t column = unit / count * kColumns;
      const int64_t first = unit % count;
      const int64_t width = std::min(kColumns, length - column);
      int64_t last = first + 1;
      while (last < count && id_at(last) == id_at(first)) ++last;
      unit += last - first;
      if (first > 0 && id_at(first - 1) == id_at(first)) continue;  // a group begun before
      std::fill_n(total, width, A(0));
      for (int64_t i = first; i < last; ++i) {
        const T* const row = from + order[static_cast<size_t>(i)] * stride + column;
        simd::for_each_vector<A>(width, [&](int64_t k, auto lanes, auto) {
          simd::store(total + k, simd::load(total + k, lanes) + simd::load(row + k, lanes), lanes);
        });
      }
      To* const out = to + static_cast<int64_t>(id_at(first)) * length + column;
      simd::for_each_vector<A>(width, [&](int64_t k, auto lanes, auto) {
        simd::store(out + k, simd::load(total + k, lanes), lanes);
      });
    }
  });
}

/// Rows of f32, rounded to T.
template <class T, class Index>
void round_rows(const Tensor& table, const Tensor& ids, Tensor& out) {
  const float* const from = table.data<float>();
  const int64_t stride = table.strides()[0];
  const int64_t length = table.size(1);
  const Index* const id = ids.data<Index>();
  T* const to = out.data<T>();
  parallel_for(0, ids.numel(), std::max<int64_t>(1, kElementwiseGrain / length),
               [&](int64_t begin, int64_t end) {
                 for (int64_t i = begin; i < end; ++i) {
                   const float* const row = from + static_cast<int64_t>(id[i]) * stride;
                   simd::for_each_vector<float>(length, [&](int64_t k, auto lanes, auto) {
                     simd::store(to + i * length + k, simd::load(row + k, lanes), lanes);
                   });
                 }
               });
}

}  // namespace

void embedding_cpu(const Tensor& table, const Tensor& ids, Tensor& out, Stream /*stream*/) {
  if (out.dtype() != table.dtype()) {
    return dispatch_index(ids.dtype(), "embedding", [&]<class Index>() {
      out.dtype() == DType::bf16 ? round_rows<bf16, Index>(table, ids, out)
                                 : round_rows<f16, Index>(table, ids, out);
    });
  }
  const size_t element = size_of(table.dtype());
  const size_t row = static_cast<size_t>(table.size(1)) * element;
  const size_t stride = static_cast<size_t>(table.strides()[0]) * element;
  const char* const from = static_cast<const char*>(table.raw_data());
  char* const to = static_cast<char*>(out.raw_data());
  dispatch_index(ids.dtype(), "embedding", [&]<class Index>() {
    const Index* const id = ids.data<Index>();
    parallel_for(0, ids.numel(), std::max<int64_t>(1, kElementwiseGrain / table.size(1)),
                 [&](int64_t begin, int64_t end) {
                   for (int64_t i = begin; i < end; ++i) {
                     std::memcpy(to + static_cast<size_t>(i) * row,
                                 from + static_cast<size_t>(id[i]) * stride, row);
                   }
                 });
  });
}

void embedding_backward_cpu(const Tensor& dy, const Tensor& ids, Tensor& dtable,
                            Stream /*stream*/) {
  dispatch_floating(dy.dtype(), "embedding_backward", [&]<class T>() {
    dispatch_index(ids.dtype(), "embedding_backward", [&]<class Index>() {
      if (dtable.dtype() == dy.dtype()) {
        backward<T, T, Index>(dy, ids, dtable);
      } else if constexpr (sizeof(T) == 2) {
        backward<T, float, Index>(dy, ids, dtable);
      }
    });
  });
}

}  // namespace weft
