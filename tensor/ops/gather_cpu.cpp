#include <cstring>

#include "weft/tensor/check.h"
#include "weft/tensor/dispatch.h"

#include "ops/gather_kernels.h"
#include "ops/strided.h"

namespace weft {
namespace {

/// A stand-in for elements of this many bytes, which are only moved.
template <class Body>
void dispatch_size(size_t bytes, Body&& body) {
  switch (bytes) {
    case 1:
      return body.template operator()<uint8_t>();
    case 2:
      return body.template operator()<uint16_t>();
    case 4:
      return body.template operator()<uint32_t>();
    default:
      return body.template operator()<uint64_t>();
  }
}

template <class T, class Index>
void gather_typed(const Tensor& x, int axis, const Tensor& index, Tensor& out) {
  Strides x_strides = x.strides();
  const int64_t step = x_strides[axis];
  x_strides[axis] = 0;
  const StridedLoop<3> loop(out.shape(), {out.strides(), index.strides(), x_strides});
  T* const to = static_cast<T*>(out.raw_data());
  const T* const from = static_cast<const T*>(x.raw_data());
  const Index* const places = index.data<Index>();
  loop.for_each_run(
      kElementwiseGrain / 2, [&](const auto& offsets, const auto& strides, int64_t count) {
        T* const run = to + offsets[0];
        const Index* const place = places + offsets[1];
        const T* const source = from + offsets[2];
        if (strides[1] == 0) {  // one index for the whole run
          const T* const found = source + *place * step;
          if (strides[0] == 1 && strides[2] == 1) {
            std::memcpy(run, found, static_cast<size_t>(count) * sizeof(T));
          } else {
            for (int64_t i = 0; i < count; ++i) run[i * strides[0]] = found[i * strides[2]];
          }
        } else {
          for (int64_t i = 0; i < count; ++i)
            run[i * strides[0]] = source[place[i * strides[1]] * step + i * strides[2]];
        }
      });
}

/// Adds without the undefined behaviour of signed overflow.
template <class T>
void add_to(T& total, T value) {
  if constexpr (std::is_integral_v<T>) {
    using U = std::make_unsigned_t<T>;
    total = static_cast<T>(static_cast<U>(total) + static_cast<U>(value));
  } else {
    total += value;
  }
}

/// Threads share out the lines along `axis`: two indices meet only within a line.
template <class T, class Index>
void scatter_add_typed(Tensor& x, int axis, const Tensor& index, const Tensor& source) {
  Shape lines = index.shape();
  std::array<Strides, 3> strides = {x.strides(), index.strides(), source.strides()};
  const int64_t length = lines[axis];
  const int64_t step = strides[0][axis];
  const int64_t index_step = strides[1][axis];
  const int64_t source_step = strides[2][axis];
  lines.erase(axis);
  for (Strides& s : strides) s.erase(axis);
  const StridedLoop<3> loop(lines, strides);
  T* const to = x.data<T>();
  const Index* const places = index.data<Index>();
  const T* const from = source.data<T>();
  loop.for_each_run(
      std::max<int64_t>(1, kElementwiseGrain / 4 / length),
      [&](const auto& offsets, const auto& inner, int64_t count) {
        T* const run = to + offsets[0];
        const Index* const place = places + offsets[1];
        const T* const value = from + offsets[2];
        if (inner[1] == 0 && inner[0] == 1 && inner[2] == 1) {  // whole rows of entries
          for (int64_t j = 0; j < length; ++j) {
            T* const row = run + place[j * index_step] * step;
            const T* const added = value + j * source_step;
            for (int64_t i = 0; i < count; ++i) add_to(row[i], added[i]);
          }
        } else if (source_step > inner[2]) {
          for (int64_t j = 0; j < length; ++j)
            for (int64_t i = 0; i < count; ++i)
              add_to(run[i * inner[0] + place[j * index_step + i * inner[1]] * step],
                     value[j * source_step + i * inner[2]]);
        } else {
          for (int64_t i = 0; i < count; ++i)
            for (int64_t j = 0; j < length; ++j)
              add_to(run[i * inner[0] + place[j * index_step + i * inner[1]] * step],
                     value[j * source_step + i * inner[2]]);
        }
      });
}

}  // namespace

void gather_cpu(const Tensor& x, int axis, const Tensor& index, Tensor& out, Stream /*stream*/) {
  dispatch_size(size_of(x.dtype()), [&]<class T>() {
    dispatch_index(index.dtype(), "gather",
                   [&]<class Index>() { gather_typed<T, Index>(x, axis, index, out); });
  });
}

void scatter_add_cpu(Tensor& x, int axis, const Tensor& index, const Tensor& source,
                     Stream /*stream*/) {
  dispatch_index(index.dtype(), "scatter_add", [&]<class Index>() {
    switch (x.dtype()) {
      case DType::f64:
        return scatter_add_typed<double, Index>(x, axis, index, source);
      case DType::f32:
        return scatter_add_typed<float, Index>(x, axis, index, source);
      case DType::i64:
        return scatter_add_typed<int64_t, Index>(x, axis, index, source);
      case DType::i32:
        return scatter_add_typed<int32_t, Index>(x, axis, index, source);
      default:
        throw_error<DTypeError>("scatter_add: no kernel for {}", x);
    }
  });
}

}  // namespace weft
