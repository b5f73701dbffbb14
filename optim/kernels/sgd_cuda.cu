#include "kernels/sgd.h"
#include "kernels/tensor_list_cuda.cuh"

namespace weft::optim {
namespace {

template <class T>
struct Item {
  T* parameter;
  const T* grad;
  T* buffer;  // null without momentum
  int64_t size;
  T lr, weight_decay, keep, take;
  bool aligned;
};

template <class T>
__global__ void __launch_bounds__(kListThreads)
    update(const __grid_constant__ TensorList<Item<T>> list, T grad_scale, T momentum,
           bool nesterov) {
  const int index = list.item_of_block();
  const Item<T>& item = list.items[index];
  walk_chunk<cuda::kPackWidth<T>>(
      item, blockIdx.x - list.first_block[index], [&](int64_t i, auto width) {
        constexpr int kWidth = width();
        auto p = cuda::load_pack<kWidth>(item.parameter + i);
        const auto grad = cuda::load_pack<kWidth>(item.grad + i);
        T g[kWidth];
#pragma unroll
        for (int k = 0; k < kWidth; ++k) {
          g[k] = grad_scale * grad.values[k] + item.weight_decay * p.values[k];
        }
        if (item.buffer != nullptr) {
          auto buffer = cuda::load_pack<kWidth>(item.buffer + i);
#pragma unroll
          for (int k = 0; k < kWidth; ++k) {
            buffer.values[k] = item.keep * buffer.values[k] + item.take * g[k];
            g[k] = nesterov ? g[k] + momentum * buffer.values[k] : buffer.values[k];
          }
          cuda::store_pack(item.buffer + i, buffer);
        }
#pragma unroll
        for (int k = 0; k < kWidth; ++k) p.values[k] -= item.lr * g[k];
        cuda::store_pack(item.parameter + i, p);
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
                 .size = from.parameter.numel(),
                 .lr = static_cast<T>(from.lr),
                 .weight_decay = static_cast<T>(from.weight_decay),
                 .keep = static_cast<T>(from.keep),
                 .take = static_cast<T>(from.take),
                 .aligned = false};
    item.aligned = all_aligned(item.parameter, item.grad, item.buffer);
    items.push_back(item);
  }
  for_each_list(items, [&](const TensorList<Item<T>>& list, unsigned blocks, int64_t) {
    cuda::launch("sgd", stream, {blocks, kListThreads}, update<T>, list,
                 static_cast<T>(params.grad_scale), static_cast<T>(params.momentum),
                 params.nesterov);
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
