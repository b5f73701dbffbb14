#include <bit>
#include <cmath>

#include "weft/tensor/dispatch.h"

#include "cuda/elementwise.cuh"
#include "ops/convert.h"
#include "ops/copy.h"
#include "ops/copy_transposed.h"

namespace weft {
namespace {

using cuda::Input;

struct Same {
  template <class T>
  __device__ T operator()(T value) const {
    return value;
  }
};

/// Unsigned integers of the sizes of elements: equal types move as bits.
template <class Body>
void dispatch_bits(DType dtype, const Body& body) {
  switch (size_of(dtype)) {
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

/// An element of any type: a double holds every floating one, an int64_t every integer.
struct AnyElement {
  bool is_floating;
  double real;
  int64_t integer;

  template <class To>
  __device__ To as() const {
    return is_floating ? cuda::element_as<To>(real) : cuda::element_as<To>(integer);
  }
};

__device__ AnyElement load_any(const void* data, DType dtype, int64_t at) {
  const auto real = [](double value) { return AnyElement{true, value, 0}; };
  const auto integer = [](int64_t value) { return AnyElement{false, 0, value}; };
  switch (dtype) {
    case DType::i64:
      return integer(static_cast<const int64_t*>(data)[at]);
    case DType::i32:
      return integer(static_cast<const int32_t*>(data)[at]);
    case DType::u8:
    case DType::boolean:
      return integer(static_cast<const uint8_t*>(data)[at]);
    default:
      return real(cuda::detail::load_any_float<double>(data, dtype, at));
  }
}

__device__ void store_any(void* data, DType dtype, int64_t at, const AnyElement& value) {
  switch (dtype) {
    case DType::f64:
      static_cast<double*>(data)[at] = value.as<double>();
      break;
    case DType::f32:
      static_cast<float*>(data)[at] = value.as<float>();
      break;
    case DType::bf16:
      static_cast<bf16*>(data)[at] = value.as<bf16>();
      break;
    case DType::f16:
      static_cast<f16*>(data)[at] = value.as<f16>();
      break;
    case DType::i64:
      static_cast<int64_t*>(data)[at] = value.as<int64_t>();
      break;
    case DType::i32:
      static_cast<int32_t*>(data)[at] = value.as<int32_t>();
      break;
    case DType::u8:
      static_cast<uint8_t*>(data)[at] = value.as<uint8_t>();
      break;
    case DType::boolean:
      static_cast<bool*>(data)[at] = value.as<bool>();
      break;
  }
}

/// One kernel for every pair of types and every layout.
__global__ void convert_kernel(cuda::IndexMap<2> map, uint32_t count, const void* from,
                               DType from_dtype, void* to, DType to_dtype) {
  const uint32_t position = blockIdx.x * blockDim.x + threadIdx.x;
  if (position >= count) return;
  const auto offsets = map.offsets(position);
  store_any(to, to_dtype, offsets.of[0], load_any(from, from_dtype, offsets.of[1]));
}

__global__ void arange_kernel(int64_t* out, int64_t count, int64_t start, int64_t step) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < count) out[i] = start + i * step;
}

void convert_any(const Tensor& source, Tensor& destination, Stream stream) {
  constexpr unsigned kThreads = 256;
  const auto from_size = static_cast<int64_t>(size_of(source.dtype()));
  const auto to_size = static_cast<int64_t>(size_of(destination.dtype()));
  const auto loop =
      cuda::loop_in_memory_order<2>(destination.shape(), {destination.strides(), source.strides()});
  cuda::for_each_piece<2>(
      loop, cuda::kPieceLimit,
      [&](const StridedLoop<2>& part, const std::array<int64_t, 2>& offsets, int64_t) {
        const auto count = static_cast<uint32_t>(part.shape.numel());
        cuda::launch(
            "copy_", stream, {dim3(cuda::blocks_for(count, kThreads)), dim3(kThreads)},
            &convert_kernel, cuda::index_map(part, 1), count,
            static_cast<const char*>(source.raw_data()) + offsets[1] * from_size, source.dtype(),
            static_cast<char*>(destination.raw_data()) + offsets[0] * to_size, destination.dtype());
      });
}

/// The conversions of training have kernels of their own, where they can go in vectors.
template <class To, class From>
bool try_vectors(const Tensor& source, Tensor& destination, Stream stream) {
  if (destination.dtype() != dtype_of<To> || source.dtype() != dtype_of<From>) return false;
  return cuda::map_vectors<To>("copy_", stream, Same(), destination, Input<From>(source));
}

}  // namespace

void copy_cuda(const Tensor& source, Tensor& destination, Stream stream) {
  if (source.dtype() == destination.dtype()) {
    if (source.is_contiguous() && destination.is_contiguous()) {
      const cuda::DeviceGuard guard(stream.device().index);
      WEFT_CUDA_CHECK(cudaMemcpyAsync(destination.raw_data(), source.raw_data(),
                                      static_cast<size_t>(source.numel()) * size_of(source.dtype()),
                                      cudaMemcpyDeviceToDevice, cuda::native(stream)));
      return;
    }
    if (copy_transposed_cuda(source, destination, stream)) return;
    dispatch_bits(source.dtype(), [&]<class Bits>() {
      cuda::map_elements<Bits>("copy_", stream, Same(), destination, Input<Bits>(source));
    });
    return;
  }
  if (try_vectors<bf16, float>(source, destination, stream) ||
      try_vectors<float, bf16>(source, destination, stream) ||
      try_vectors<f16, float>(source, destination, stream) ||
      try_vectors<float, f16>(source, destination, stream))
    return;
  convert_any(source, destination, stream);
}

namespace {

template <class Bits>
struct Constant {
  Bits bits;
  __device__ Bits operator()() const { return bits; }
};

}  // namespace

void fill_cuda(Tensor& destination, double value, Stream stream) {
  if (value == 0 && !std::signbit(value) && destination.is_contiguous()) {
    const cuda::DeviceGuard guard(stream.device().index);
    WEFT_CUDA_CHECK(
        cudaMemsetAsync(destination.raw_data(), 0,
                        static_cast<size_t>(destination.numel()) * size_of(destination.dtype()),
                        cuda::native(stream)));
    return;
  }
  dispatch_all(destination.dtype(), "fill_", [&]<class T>() {
    const T converted = convert<T>(value);
    dispatch_bits(destination.dtype(), [&]<class Bits>() {
      if constexpr (sizeof(Bits) == sizeof(T)) {
        cuda::map_elements<Bits>("fill_", stream, Constant<Bits>{std::bit_cast<Bits>(converted)},
                                 destination);
      }
    });
  });
}

void arange_cuda(Tensor& destination, int64_t start, int64_t step, Stream stream) {
  constexpr unsigned kThreads = 256;
  const int64_t count = destination.numel();
  cuda::launch("arange", stream, {dim3(cuda::blocks_for(count, kThreads)), dim3(kThreads)},
               &arange_kernel, destination.data<int64_t>(), count, start, step);
}

}  // namespace weft
