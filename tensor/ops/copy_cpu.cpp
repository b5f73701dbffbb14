#include <cstring>

#include "weft/tensor/dispatch.h"

#include "ops/copy.h"
#include "ops/strided.h"

namespace weft {
namespace {

template <class To, class From>
To convert(From value) {
  if constexpr (std::is_same_v<To, From>) {
    return value;
  } else if constexpr (std::is_same_v<To, bool>) {
    return static_cast<double>(value) != 0;
  } else if constexpr (std::is_same_v<To, bf16> || std::is_same_v<To, f16>) {
    return To(static_cast<float>(value));
  } else {
    return static_cast<To>(value);
  }
}

template <class To, class From>
void copy_typed(const Tensor& source, Tensor& destination) {
  const StridedLoop<2> loop(destination.shape(), {destination.strides(), source.strides()});
  To* const to = destination.data<To>();
  const From* const from = source.data<From>();
  loop.for_each_run(kElementwiseGrain,
                    [&](const auto& offsets, const auto& strides, int64_t count) {
                      To* const out = to + offsets[0];
                      const From* const in = from + offsets[1];
                      if (strides[0] == 1 && strides[1] == 1) {
                        if constexpr (std::is_same_v<To, From>) {
                          std::memcpy(out, in, static_cast<size_t>(count) * sizeof(To));
                        } else {
                          for (int64_t i = 0; i < count; ++i) out[i] = convert<To>(in[i]);
                        }
                      } else {
                        for (int64_t i = 0; i < count; ++i)
                          out[i * strides[0]] = convert<To>(in[i * strides[1]]);
                      }
                    });
}

}  // namespace

void copy_cpu(const Tensor& source, Tensor& destination, Stream /*stream*/) {
  dispatch_all(destination.dtype(), "copy_", [&]<class To>() {
    dispatch_all(source.dtype(), "copy_",
                 [&]<class From>() { copy_typed<To, From>(source, destination); });
  });
}

void fill_cpu(Tensor& destination, double value, Stream /*stream*/) {
  dispatch_all(destination.dtype(), "fill_", [&]<class T>() {
    const StridedLoop<1> loop(destination.shape(), {destination.strides()});
    T* const to = destination.data<T>();
    const T converted = convert<T>(value);
    loop.for_each_run(kElementwiseGrain,
                      [&](const auto& offsets, const auto& strides, int64_t count) {
                        T* const out = to + offsets[0];
                        for (int64_t i = 0; i < count; ++i) out[i * strides[0]] = converted;
                      });
  });
}

}  // namespace weft
