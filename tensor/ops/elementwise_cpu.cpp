#include "ops/convert.h"
#include "ops/elementwise.h"

namespace weft {
namespace {

template <class C, class T>
void gather(const StridedLoop<1>& loop, const void* data, int64_t begin, int64_t count, C* block) {
  const T* const from = static_cast<const T*>(data);
  C* out = block;
  loop.walk_runs(begin, begin + count, [&](const auto& offsets, const auto& strides, int64_t run) {
    const T* const in = from + offsets[0];
    const int64_t stride = strides[0];
    if (stride == 1) {
      convert_run(in, out, run);
    } else if (stride == 0) {
      std::fill_n(out, run, convert<C>(*in));
    } else {
      for (int64_t i = 0; i < run; ++i) out[i] = convert<C>(in[i * stride]);
    }
    out += run;
  });
}

template <class C, class T>
void scatter(const StridedLoop<1>& loop, void* data, int64_t begin, int64_t count, const C* block) {
  T* const to = static_cast<T*>(data);
  const C* in = block;
  loop.walk_runs(begin, begin + count, [&](const auto& offsets, const auto& strides, int64_t run) {
    T* const out = to + offsets[0];
    const int64_t stride = strides[0];
    if (stride == 1) {
      convert_run(in, out, run);
    } else {
      for (int64_t i = 0; i < run; ++i) out[i * stride] = convert<T>(in[i]);
    }
    in += run;
  });
}

}  // namespace

Tensor readable_in_order(const Tensor& tensor) {
  constexpr int64_t kWorthwhile = 4096;
  const StridedLoop<1> loop(tensor.shape(), {tensor.strides()});
  const int last = loop.shape.rank() - 1;
  if (tensor.numel() < kWorthwhile || loop.strides[0][last] <= 1) return tensor;
  for (int axis = 0; axis < last; ++axis) {
    if (loop.strides[0][axis] == 1 && loop.shape[axis] >= 8) return tensor.clone();
  }
  return tensor;
}

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
