#pragma once

// Kernels over lists of arrays: one launch walks hundreds of them, cut into chunks of which every
// block takes one. The list travels in the launch's arguments, so that nothing has to be copied to
// the device before.
#include <algorithm>
#include <vector>

#include "weft/optim/step_inputs.h"

#include "ops/rows_cuda.cuh"

namespace weft::optim {

inline constexpr int kListThreads = 256;
/// Elements that a block walks.
inline constexpr int64_t kListChunk = 8192;

/// As many items as arguments of a launch can hold (32764 bytes in all). An Item has the fields
/// size, its elements, and aligned, whether all its arrays begin at multiples of 16 bytes.
template <class Item>
struct TensorList {
  static constexpr int kMost = static_cast<int>(31 * 1024 / (sizeof(Item) + sizeof(uint32_t)));
  Item items[kMost];
  uint32_t first_block[kMost + 1];
  int count = 0;

  __device__ __forceinline__ int item_of_block() const {
    int low = 0;
    int high = count;
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      (first_block[middle] <= blockIdx.x ? low : high) = middle;
    }
    return low;
  }
};

/// Calls launch(list, blocks, first) for as many lists as `items` need: `first` is the number of
/// the blocks of the lists before.
template <class Item, class Launch>
void for_each_list(const std::vector<Item>& items, Launch&& launch) {
  constexpr int64_t kMostBlocks = int64_t{1} << 30;
  TensorList<Item> list;
  int64_t blocks = 0;
  int64_t first = 0;
  const auto flush = [&] {
    if (blocks > 0) launch(list, static_cast<unsigned>(blocks), first);
    first += blocks;
    blocks = 0;
    list.count = 0;
  };
  for (const Item& item : items) {
    const int64_t more = cuda::ceil_div(item.size, kListChunk);
    if (list.count == TensorList<Item>::kMost || blocks + more > kMostBlocks) flush();
    list.items[list.count] = item;
    list.first_block[list.count] = static_cast<uint32_t>(blocks);
    blocks += more;
    list.first_block[++list.count] = static_cast<uint32_t>(blocks);
  }
  flush();
}

/// Calls body(i, width) for the elements i to i + width - 1 of this thread, in the block's chunk of
/// `item`: packs of kWidth where the item is aligned. `width` is a std::integral_constant. kAhead
/// of the packs are on their way together, where the body writes nothing that could be read.
template <int kWidth, int kAhead = 2, class Item, class Body>
__device__ __forceinline__ void walk_chunk(const Item& item, uint32_t chunk, Body&& body) {
  const int64_t begin = static_cast<int64_t>(chunk) * kListChunk;
  const int64_t end = begin + kListChunk < item.size ? begin + kListChunk : item.size;
  const int64_t whole = item.aligned ? begin + (end - begin) / kWidth * kWidth : begin;
#pragma unroll kAhead
  for (int64_t i = begin + threadIdx.x * kWidth; i < whole; i += kListThreads * kWidth) {
    body(i, std::integral_constant<int, kWidth>());
  }
  for (int64_t i = whole + threadIdx.x; i < end; i += kListThreads) {
    body(i, std::integral_constant<int, 1>());
  }
}

/// StepInputs in the hands of a kernel.
struct DeviceInputs {
  const double* numbers;
  const void* grad_scale;
  bool scale_is_double;

  explicit DeviceInputs(const StepInputs& inputs)
      : numbers(inputs.numbers.data<double>()),
        grad_scale(inputs.grad_scale.raw_data()),
        scale_is_double(inputs.grad_scale.dtype() == DType::f64) {}

  /// The factor of the gradients. Where it is not finite, nothing may be changed.
  template <class T>
  __device__ __forceinline__ T scale() const {
    return scale_is_double ? static_cast<T>(*static_cast<const double*>(grad_scale))
                           : static_cast<T>(*static_cast<const float*>(grad_scale));
  }
  template <class T>
  __device__ __forceinline__ T number(int row, int column) const {
    return static_cast<T>(numbers[row * kStepNumbers + column]);
  }
};

/// A parameter's elements in bf16 or f16, to be written with it. Empty for most.
struct HalfCopy {
  void* data;
  bool is_f16;

  static HalfCopy of(const Tensor& copy) {
    return copy.defined() ? HalfCopy{copy.raw_data(), copy.dtype() == DType::f16}
                          : HalfCopy{nullptr, false};
  }

  /// Whether packs as wide as those of 16 bytes of float can be written.
  bool is_aligned() const { return reinterpret_cast<uintptr_t>(data) % 8 == 0; }

  template <class T, int kWidth>
  __device__ __forceinline__ void store(int64_t i, const cuda::Pack<T, kWidth>& pack) const {
    if constexpr (std::is_same_v<T, float>) {
      if (data == nullptr) return;
      if (is_f16) {
        cuda::store_values(static_cast<f16*>(data) + i, pack.values);
      } else {
        cuda::store_values(static_cast<bf16*>(data) + i, pack.values);
      }
    }
  }
};

template <class... Pointers>
bool all_aligned(const Pointers*... pointers) {
  return (cuda::is_aligned(pointers, 0) && ...);
}

}  // namespace weft::optim
