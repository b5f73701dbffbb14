// For small k a sorted list of the best so far is kept: once it is full, most elements fail the
// vectorised comparison with its last entry. For large k the indices are partitioned and sorted.
#include <algorithm>
#include <numeric>
#include <vector>

#include "weft/tensor/dispatch.h"
#include "weft/tensor/parallel.h"

#include "ops/convert.h"
#include "ops/rows.h"
#include "ops/topk_kernels.h"

namespace weft {
namespace {

constexpr int64_t kLargestList = 128;
constexpr int64_t kStep = 64;  // elements compared at once

/// Whether a goes before b where a stands at the larger index: NaN before numbers.
template <class A>
bool beats(A a, A b) {
  return a > b || (a != a && b == b);
}

template <class A>
void select_by_list(const A* x, int64_t length, int64_t k, A* values, int64_t* indices) {
  int64_t filled = 0;
  const auto insert = [&](int64_t index) {
    const A value = x[index];
    int64_t place = filled < k ? filled++ : k - 1;
    for (; place > 0 && beats(value, values[place - 1]); --place) {
      values[place] = values[place - 1];
      indices[place] = indices[place - 1];
    }
    values[place] = value;
    indices[place] = index;
  };
  for (int64_t i = 0; i < k; ++i) insert(i);
  int64_t i = k;
  for (; i + kStep <= length; i += kStep) {
    const A last = values[k - 1];
    int candidates = 0;
    for (int64_t j = i; j < i + kStep; ++j) candidates += (x[j] > last) | (x[j] != x[j]);
    if (candidates == 0) continue;
    for (int64_t j = i; j < i + kStep; ++j)
      if (beats(x[j], values[k - 1])) insert(j);
  }
  for (; i < length; ++i)
    if (beats(x[i], values[k - 1])) insert(i);
}

template <class A>
void select_by_sorting(const A* x, int64_t length, int64_t k, std::vector<int64_t>& order,
                       A* values, int64_t* indices) {
  order.resize(static_cast<size_t>(length));
  std::iota(order.begin(), order.end(), int64_t{0});
  const auto before = [x](int64_t a, int64_t b) {
    return beats(x[a], x[b]) || (a < b && !beats(x[b], x[a]));
  };
  if (k < length) std::nth_element(order.begin(), order.begin() + k - 1, order.end(), before);
  std::sort(order.begin(), order.begin() + k, before);
  for (int64_t i = 0; i < k; ++i) {
    indices[i] = order[static_cast<size_t>(i)];
    values[i] = x[indices[i]];
  }
}

template <class T>
void topk_typed(const Tensor& x, Tensor& values, Tensor& indices) {
  using A = std::conditional_t<std::is_integral_v<T>, T, accumulator_t<T>>;
  const int64_t length = x.size(1);
  const int64_t k = values.size(1);
  parallel_for(0, x.size(0), row_grain(length), [&](int64_t begin, int64_t end) {
    std::vector<A> row_buffer(std::is_same_v<T, A> ? 0 : static_cast<size_t>(length));
    std::vector<A> best(static_cast<size_t>(k));
    std::vector<int64_t> order;
    for (int64_t row = begin; row < end; ++row) {
      const T* const from = x.data<T>() + row * x.strides()[0];
      const A* elements = row_buffer.data();
      if constexpr (std::is_same_v<T, A>) {
        elements = from;
      } else {
        convert_run(from, row_buffer.data(), length);
      }
      int64_t* const places = indices.data<int64_t>() + row * k;
      if (k <= kLargestList) {
        select_by_list(elements, length, k, best.data(), places);
      } else {
        select_by_sorting(elements, length, k, order, best.data(), places);
      }
      convert_run(best.data(), values.data<T>() + row * k, k);
    }
  });
}

}  // namespace

void topk_cpu(const Tensor& x, Tensor& values, Tensor& indices, Stream /*stream*/) {
  dispatch_numeric(x.dtype(), "topk", [&]<class T>() { topk_typed<T>(x, values, indices); });
}

}  // namespace weft
