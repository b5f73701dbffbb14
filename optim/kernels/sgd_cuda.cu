#include "kernels/sgd.h"
#include "kernels/tensor_list_cuda.cuh"

namespace weft::optim {
namespace {

template <class T>
struct Item {
  T* parameter;
  const T* grad;
  T* buffer;  // null without momentum
  HalfCopy copy;
  int64_t size;
  int row;
  bool aligned;
};

template <class T>
__global__ void __launch_bounds__(kListThreads)
    update(const __grid_constant__ TensorList<Item<T>> list, T momentum, bool nesterov,
           const DeviceInputs inputs) {
  const T grad_scale = inputs.scale<T>();
  if (!isfinite(grad_scale)) return;
  const int index = list.item_of_block();
  const Item<T>& item = list.items[index];
  const T lr = inputs.number<T>(item.row, 0);
  const T weight_decay = inputs.number<T>(item.row, 1);
  const T keep = inputs.number<T>(item.row, 2);
  const T take = inputs.number<T>(item.row, 3);
  walk_chunk<cuda::kPackWidth<T>>(
      item, blockIdx.x - list.first_block[index], [&](int64_t i, auto width) {
        constexpr int kWidth = width();
        auto p = cuda::load_pack<kWidth>(item.parameter + i);
        const auto grad = cuda::load_pack<kWidth>(item.grad + i);
        T g[kWidth];
#pragma unroll
        for (int k = 0; k < kWidth; ++k) {
          g[k] = grad_scale * grad.values[k] + weight_decay * p.values[k];
        }
        if (item.buffer != nullptr) {
          auto buffer = cuda::load_pack<kWidth>(item.buffer + i);
#pragma unroll
          for (int k = 0; k < kWidth; ++k) {
            buffer.values[k] = keep * buffer.values[k] + take * g[k];
            g[k] = nesterov ? g[k] + momentum * buffer.values[k] : buffer.values[k];
          }
          cuda::store_pack(item.buffer + i, buffer);
        }
#pragma unroll
        for (int k = 0; k < kWidth; ++k) p.values[k] -= lr * g[k];
        cuda::store_pack(item.parameter + i, p);
        item.copy.store(i, p);
      });
}

template <class T>
void sgd(const SgdParams& params, Stream stream) {
  std::vector<Item<T>> items;
  items.reserve(params.items.size());
  for (SgdItem& from : params.items) {
    T* const buffer = from.momentum_buffer.defined() ? from.momentum_buffer.data<T>() : nullptr;
    Item<T> item{.parameter = from.parameter.data<T>(),
                 .grad = from.grad.data<T>(),
                 .buffer = buffer,
                 .copy = HalfCopy::of(from.copy),
                 .size = from.parameter.numel(),
                 .row = static_cast<int>(from.row),
                 .aligned = false};
    item.aligned = all_aligned(item.parameter, item.grad, item.buffer) && item.copy.is_aligned();
    items.push_back(item);
  }
  for_each_list(items, [&](const TensorList<Item<T>>& list, unsigned blocks, int64_t) {
    cuda::launch("sgd", stream, {blocks, kListThreads}, update<T>, list,
                 static_cast<T>(params.momentum), params.nesterov, DeviceInputs(params.inputs));
  });
}

}  // namespace

void sgd_cuda(const SgdParams& params, Stream stream) {
  if (params.items.empty()) return;
  if (params.items.front().parameter.dtype() == DType::f64) {
    sgd<double>(params, stream);
  } else {
    sgd<float>(params, stream);
  }
}

}  // namespace weft::optim
