#include <cstring>

#include "weft/tensor/check.h"
#include "weft/tensor/dispatch.h"
#include "weft/tensor/pinned.h"
#include "weft/tensor/stream.h"
#include "weft/tensor/tensor.h"

#ifdef WEFT_HAVE_CUDA
#include "cuda/backend.h"
#include "ops/copy.h"
#endif

namespace weft {

namespace {

size_t bytes_of(const Shape& shape, DType dtype) {
  int64_t count = 1;
  for (int64_t size : shape) {
    WEFT_CHECK(size >= 0, ShapeError, "empty: negative size in shape {}", shape);
    WEFT_CHECK(!__builtin_mul_overflow(count, size, &count), ShapeError,
               "empty: shape {} has too many elements", shape);
  }
  const auto element = static_cast<int64_t>(size_of(dtype));
  int64_t bytes = 0;
  WEFT_CHECK(!__builtin_mul_overflow(count, element, &bytes), ShapeError,
             "empty: shape {} {} has too many bytes", shape, dtype);
  return static_cast<size_t>(bytes);
}

}  // namespace

Tensor empty(const Shape& shape, DType dtype, Device device) {
  return {std::make_shared<Storage>(bytes_of(shape, dtype), device),
          Layout{shape, contiguous_strides(shape), 0}, dtype};
}

Tensor empty_pinned(const Shape& shape, DType dtype) {
#ifdef WEFT_HAVE_CUDA
  if (cuda::is_any_usable()) {
    const size_t bytes = bytes_of(shape, dtype);
    std::shared_ptr<void> block = cuda::allocate_pinned(bytes);
    void* const data = block.get();
    return {std::make_shared<Storage>(data, bytes, kCpu, std::move(block)),
            Layout{shape, contiguous_strides(shape), 0}, dtype};
  }
#endif
  return empty(shape, dtype);
}

Tensor full(const Shape& shape, double value, DType dtype, Device device) {
  Tensor result = empty(shape, dtype, device);
  result.fill_(value);
  return result;
}

Tensor zeros(const Shape& shape, DType dtype, Device device) {
  return full(shape, 0.0, dtype, device);
}

Tensor ones(const Shape& shape, DType dtype, Device device) {
  return full(shape, 1.0, dtype, device);
}

Tensor empty_like(const Tensor& tensor) {
  return empty(tensor.shape(), tensor.dtype(), tensor.device());
}

Tensor zeros_like(const Tensor& tensor) {
  return zeros(tensor.shape(), tensor.dtype(), tensor.device());
}

Tensor scalar(double value, DType dtype, Device device) {
  return full({}, value, dtype, device);
}

Tensor arange(int64_t start, int64_t stop, int64_t step, DType dtype, Device device) {
  WEFT_CHECK(step != 0, ConfigError, "arange: step must not be 0");
  const int64_t span = step > 0 ? stop - start : start - stop;
  const int64_t stride = step > 0 ? step : -step;
  const int64_t count = span > 0 ? (span + stride - 1) / stride : 0;
#ifdef WEFT_HAVE_CUDA
  if (device.is_cuda()) {
    Tensor result = empty({count}, DType::i64, device);
    arange_cuda(result, start, step, current_stream(device));
    return result.to(dtype);
  }
#endif
  std::vector<int64_t> values(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) values[static_cast<size_t>(i)] = start + i * step;
  return from_vector(values, {count}, device).to(dtype);
}

template <class T>
Tensor from_vector(const std::vector<T>& values, const Shape& shape, Device device) {
  WEFT_CHECK(shape.numel() == static_cast<int64_t>(values.size()), ShapeError,
             "from_vector: {} values for shape {}", values.size(), shape);
  Tensor result = empty(shape, dtype_of<T>, kCpu);
  if constexpr (std::is_same_v<T, bool>) {
    std::copy(values.begin(), values.end(), result.data<bool>());
  } else if (!values.empty()) {
    std::memcpy(result.raw_data(), values.data(), values.size() * sizeof(T));
  }
  return result.to(device);
}

template Tensor from_vector(const std::vector<double>&, const Shape&, Device);
template Tensor from_vector(const std::vector<float>&, const Shape&, Device);
template Tensor from_vector(const std::vector<bf16>&, const Shape&, Device);
template Tensor from_vector(const std::vector<f16>&, const Shape&, Device);
template Tensor from_vector(const std::vector<int64_t>&, const Shape&, Device);
template Tensor from_vector(const std::vector<int32_t>&, const Shape&, Device);
template Tensor from_vector(const std::vector<uint8_t>&, const Shape&, Device);
template Tensor from_vector(const std::vector<bool>&, const Shape&, Device);

}  // namespace weft
