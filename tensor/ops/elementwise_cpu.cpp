#include "ops/convert.h"
#include "ops/elementwise.h"

namespace weft {
namespace {

/// Walks elements [begin, begin + count) of a strided tensor in row-major order, and calls
/// body(offset, stride, position, run) for each run along the innermost axis; position counts from
/// `begin`.
template <class Body>
void walk_runs(const StridedLoop<1>& loop, int64_t begin, int64_t count, Body&& body) {
  const Shape& shape = loop.shape;
  const Strides& strides = loop.strides[0];
  const int last = shape.rank() - 1;
  std::array<int64_t, kMaxRank> index;
  int64_t rest = begin;
  int64_t offset = 0;
  for (int axis = last; axis >= 0; --axis) {
    const auto at = static_cast<size_t>(axis);
    index[at] = axis > 0 ? rest % shape[axis] : rest;
    rest /= shape[axis];
    offset += index[at] * strides[axis];
  }
  for (int64_t done = 0;;) {
    const int64_t run = std::min(shape[last] - index[static_cast<size_t>(last)], count - done);
    body(offset, strides[last], done, run);
    done += run;
    if (done == count) return;
    offset -= index[static_cast<size_t>(last)] * strides[last];
    index[static_cast<size_t>(last)] = 0;
    for (int axis = last - 1; axis >= 0; --axis) {
      const auto at = static_cast<size_t>(axis);
      offset += strides[axis];
      if (++index[at] < shape[axis]) break;
      offset -= index[at] * strides[axis];
      index[at] = 0;
    }
  }
}

template <class C, class T>
void gather(const StridedLoop<1>& loop, const void* data, int64_t begin, int64_t count, C* block) {
  const T* const from = static_cast<const T*>(data);
  walk_runs(loop, begin, count, [&](int64_t offset, int64_t stride, int64_t position, int64_t run) {
    const T* const in = from + offset;
    C* const out = block + position;
    if (stride == 1) {
      convert_run(in, out, run);
    } else if (stride == 0) {
      std::fill_n(out, run, convert<C>(*in));
    } else {
      for (int64_t i = 0; i < run; ++i) out[i] = convert<C>(in[i * stride]);
    }
  });
}

template <class C, class T>
void scatter(const StridedLoop<1>& loop, void* data, int64_t begin, int64_t count, const C* block) {
  T* const to = static_cast<T*>(data);
  walk_runs(loop, begin, count, [&](int64_t offset, int64_t stride, int64_t position, int64_t run) {
    const C* const in = block + position;
    T* const out = to + offset;
    if (stride == 1) {
      convert_run(in, out, run);
    } else {
      for (int64_t i = 0; i < run; ++i) out[i * stride] = convert<T>(in[i]);
    }
  });
}

}  // namespace

template <class C>
Gather<C> gather_from(DType dtype) {
  if constexpr (std::is_floating_point_v<C>) {
    switch (dtype) {
      case DType::f64:
        return &gather<C, double>;
      case DType::f32:
        return &gather<C, float>;
      case DType::bf16:
        return &gather<C, bf16>;
      case DType::f16:
        return &gather<C, f16>;
      default:
        return nullptr;
    }
  } else {
    return stored_as<C>(dtype) ? &gather<C, C> : nullptr;
  }
}

template <class C>
Scatter<C> scatter_to(DType dtype) {
  if constexpr (std::is_same_v<C, float>) {
    switch (dtype) {
      case DType::f32:
        return &scatter<float, float>;
      case DType::bf16:
        return &scatter<float, bf16>;
      case DType::f16:
        return &scatter<float, f16>;
      default:
        return nullptr;
    }
  } else {
    return stored_as<C>(dtype) ? &scatter<C, C> : nullptr;
  }
}

template Gather<double> gather_from<double>(DType);
template Gather<float> gather_from<float>(DType);
template Gather<int64_t> gather_from<int64_t>(DType);
template Gather<int32_t> gather_from<int32_t>(DType);
template Gather<uint8_t> gather_from<uint8_t>(DType);
template Gather<uint16_t> gather_from<uint16_t>(DType);
template Scatter<double> scatter_to<double>(DType);
template Scatter<float> scatter_to<float>(DType);
template Scatter<int64_t> scatter_to<int64_t>(DType);
template Scatter<int32_t> scatter_to<int32_t>(DType);
template Scatter<uint8_t> scatter_to<uint8_t>(DType);
template Scatter<uint16_t> scatter_to<uint16_t>(DType);

}  // namespace weft
