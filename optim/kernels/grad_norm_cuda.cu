#include "kernels/clipping_factor.h"
#include "kernels/grad_norm.h"
#include "kernels/tensor_list_cuda.cuh"

namespace weft::optim {
namespace {

/// An array of any floating type.
struct Item {
  void* values;
  int64_t size;
  DType dtype;
  bool aligned;
};

/// cuda::dispatch_floating() within a kernel; all threads of a block go one way.
template <class Body>
__device__ __forceinline__ void dispatch_on_device(DType dtype, Body&& body) {
  switch (dtype) {
    case DType::f64:
      return body(static_cast<double*>(nullptr));
    case DType::f32:
      return body(static_cast<float*>(nullptr));
    case DType::bf16:
      return body(static_cast<bf16*>(nullptr));
    default:
      return body(static_cast<f16*>(nullptr));
  }
}

__global__ void __launch_bounds__(kListThreads)
    square_chunks(const __grid_constant__ TensorList<Item> list, double* __restrict__ sums) {
  const int index = list.item_of_block();
  const Item& item = list.items[index];
  double total = 0;
  dispatch_on_device(item.dtype, [&]<class T>(T*) {
    const T* const values = static_cast<const T*>(item.values);
    walk_chunk<cuda::kPackWidth<T>, 8>(
        item, blockIdx.x - list.first_block[index], [&](int64_t i, auto width) {
          constexpr int kWidth = width();
          const auto pack = cuda::load_pack<kWidth>(values + i);
#pragma unroll
          for (int k = 0; k < kWidth; ++k) {
            const auto value = static_cast<double>(cuda::widen(pack.values[k]));
            total += value * value;
          }
        });
  });
  total = cuda::sum_over<kListThreads>(total);
  if (threadIdx.x == 0) sums[blockIdx.x] = total;
}

/// One block adds up everything, in an order of its own.
__global__ void __launch_bounds__(1024)
    root_of_sum(const double* __restrict__ sums, int64_t count, double* __restrict__ norm) {
  double sum = 0;
#pragma unroll 8
  for (int64_t i = threadIdx.x; i < count; i += 1024) sum += sums[i];
  sum = cuda::sum_over<1024>(sum);
  if (threadIdx.x == 0) *norm = sqrt(sum);
}

/// A tensor of rank 0, f32 or f64.
struct DeviceNumber {
  const void* data;
  bool is_double;

  explicit DeviceNumber(const Tensor& number)
      : data(number.raw_data()), is_double(number.dtype() == DType::f64) {}

  __device__ double value() const {
    return is_double ? *static_cast<const double*>(data) : *static_cast<const float*>(data);
  }
};

__global__ void write_clip_scale(DeviceNumber norm, DeviceNumber unscale, bool has_unscale,
                                 double max_norm, double* scale) {
  *scale = clipping_factor(norm.value(), has_unscale ? unscale.value() : 1, max_norm);
}

__global__ void __launch_bounds__(kListThreads)
    scale_chunks(const __grid_constant__ TensorList<Item> list, double factor) {
  const int index = list.item_of_block();
  const Item& item = list.items[index];
  dispatch_on_device(item.dtype, [&]<class T>(T*) {
    T* const values = static_cast<T*>(item.values);
    const auto converted = static_cast<accumulator_t<T>>(factor);
    walk_chunk<cuda::kPackWidth<T>>(
        item, blockIdx.x - list.first_block[index], [&](int64_t i, auto width) {
          constexpr int kWidth = width();
          auto pack = cuda::load_pack<kWidth>(values + i);
#pragma unroll
          for (int k = 0; k < kWidth; ++k) {
            pack.values[k] = cuda::narrow<T>(cuda::widen(pack.values[k]) * converted);
          }
          cuda::store_pack(values + i, pack);
        });
  });
}

/// Lowers *first to the position of the first element that is not finite.
__global__ void __launch_bounds__(kListThreads)
    find_chunks(const __grid_constant__ TensorList<Item> list, unsigned long long* first) {
  const Item& item = list.items[0];
  unsigned long long found = ~0ull;
  dispatch_on_device(item.dtype, [&]<class T>(T*) {
    const T* const values = static_cast<const T*>(item.values);
    walk_chunk<cuda::kPackWidth<T>>(item, blockIdx.x, [&](int64_t i, auto width) {
      constexpr int kWidth = width();
      const auto pack = cuda::load_pack<kWidth>(values + i);
#pragma unroll
      for (int k = 0; k < kWidth; ++k) {
        const auto position = static_cast<unsigned long long>(i + k);
        if (!isfinite(cuda::widen(pack.values[k])) && position < found) found = position;
      }
    });
  });
  if (found != ~0ull) atomicMin(first, found);
}

Item item_of(const Tensor& tensor) {
  return {tensor.raw_data(), tensor.numel(), tensor.dtype(), all_aligned(tensor.raw_data())};
}

template <class Tensors>
std::vector<Item> items_of(const Tensors& tensors) {
  std::vector<Item> items;
  items.reserve(tensors.size());
  for (const Tensor& tensor : tensors) {
    if (tensor.numel() > 0) items.push_back(item_of(tensor));
  }
  return items;
}

}  // namespace

void grad_norm_cuda(std::span<const Tensor> tensors, Tensor& norm, Stream stream) {
  const std::vector<Item> items = items_of(tensors);
  int64_t chunks = 0;
  for (const Item& item : items) chunks += cuda::ceil_div(item.size, kListChunk);
  Tensor sums = empty({chunks}, DType::f64, stream.device());
  double* const at = sums.data<double>();
  for_each_list(items, [&](const TensorList<Item>& list, unsigned blocks, int64_t first) {
    cuda::launch("grad_norm", stream, {blocks, kListThreads}, square_chunks, list, at + first);
  });
  cuda::launch("grad_norm", stream, {1, 1024}, root_of_sum, at, chunks, norm.data<double>());
}

void clip_scale_cuda(const Tensor& norm, const Tensor& unscale, double max_norm, Tensor& scale,
                     Stream stream) {
  const bool has_unscale = unscale.defined();
  cuda::launch("clip_scale", stream, {1, 1}, write_clip_scale, DeviceNumber(norm),
               DeviceNumber(has_unscale ? unscale : norm), has_unscale, max_norm,
               scale.data<double>());
}

void scale_cuda(std::span<Tensor> tensors, double factor, Stream stream) {
  for_each_list(items_of(tensors), [&](const TensorList<Item>& list, unsigned blocks, int64_t) {
    cuda::launch("clip_grad_norm", stream, {blocks, kListThreads}, scale_chunks, list, factor);
  });
}

int64_t find_non_finite_cuda(const Tensor& tensor, Stream stream) {
  if (tensor.numel() == 0) return -1;
  Tensor first = full({1}, -1, DType::i64, tensor.device());  // the largest unsigned number
  TensorList<Item> list;
  list.items[0] = item_of(tensor);
  cuda::launch("find_non_finite_grad", stream,
               {static_cast<unsigned>(cuda::ceil_div(tensor.numel(), kListChunk)), kListThreads},
               find_chunks, list, reinterpret_cast<unsigned long long*>(first.data<int64_t>()));
  return first.item<int64_t>();
}

}  // namespace weft::optim
