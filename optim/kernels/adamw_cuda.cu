#include "kernels/adamw.h"
#include "kernels/tensor_list_cuda.cuh"

namespace weft::optim {
namespace {

template <class T>
struct Item {
  T* parameter;
  const T* grad;
  T* exp_avg;
  T* exp_avg_sq;
  HalfCopy copy;
  int64_t size;
  int row;
  bool aligned;
};

template <class T>
struct Coefficients {
  T beta1, one_minus_beta1, beta2, one_minus_beta2, eps;
};

template <class T>
__global__ void __launch_bounds__(kListThreads)
    update(const __grid_constant__ TensorList<Item<T>> list, const Coefficients<T> c,
           const DeviceInputs inputs) {
  const T grad_scale = inputs.scale<T>();
  if (!isfinite(grad_scale)) return;
  const int index = list.item_of_block();
  const Item<T>& item = list.items[index];
  const T decay = inputs.number<T>(item.row, 0);
  const T step_size = inputs.number<T>(item.row, 1);
  const T inv_sqrt_bias2 = inputs.number<T>(item.row, 2);
  walk_chunk<cuda::kPackWidth<T>>(
      item, blockIdx.x - list.first_block[index], [&](int64_t i, auto width) {
        constexpr int kWidth = width();
        auto p = cuda::load_pack<kWidth>(item.parameter + i);
        auto m = cuda::load_pack<kWidth>(item.exp_avg + i);
        auto v = cuda::load_pack<kWidth>(item.exp_avg_sq + i);
        const auto grad = cuda::load_pack<kWidth>(item.grad + i);
#pragma unroll
        for (int k = 0; k < kWidth; ++k) {
          const T g = grad_scale * grad.values[k];
          m.values[k] = c.beta1 * m.values[k] + c.one_minus_beta1 * g;
          v.values[k] = c.beta2 * v.values[k] + c.one_minus_beta2 * (g * g);
          const T denominator = sqrt(v.values[k]) * inv_sqrt_bias2 + c.eps;
          p.values[k] = decay * p.values[k] - step_size * (m.values[k] / denominator);
        }
        cuda::store_pack(item.parameter + i, p);
        cuda::store_pack(item.exp_avg + i, m);
        cuda::store_pack(item.exp_avg_sq + i, v);
        item.copy.store(i, p);
      });
}

template <class T>
void adamw(const AdamWParams& params, Stream stream) {
  const Coefficients<T> c{.beta1 = static_cast<T>(params.beta1),
                          .one_minus_beta1 = static_cast<T>(1 - params.beta1),
                          .beta2 = static_cast<T>(params.beta2),
                          .one_minus_beta2 = static_cast<T>(1 - params.beta2),
                          .eps = static_cast<T>(params.eps)};
  std::vector<Item<T>> items;
  items.reserve(params.items.size());
  for (AdamWItem& from : params.items) {
    Item<T> item{.parameter = from.parameter.data<T>(),
                 .grad = from.grad.data<T>(),
                 .exp_avg = from.exp_avg.data<T>(),
                 .exp_avg_sq = from.exp_avg_sq.data<T>(),
                 .copy = HalfCopy::of(from.copy),
                 .size = from.parameter.numel(),
                 .row = static_cast<int>(from.row),
                 .aligned = false};
    item.aligned = all_aligned(item.parameter, item.grad, item.exp_avg, item.exp_avg_sq) &&
                   item.copy.is_aligned();
    items.push_back(item);
  }
  for_each_list(items, [&](const TensorList<Item<T>>& list, unsigned blocks, int64_t) {
    cuda::launch("adamw", stream, {blocks, kListThreads}, update<T>, list, c,
                 DeviceInputs(params.inputs));
  });
}

}  // namespace

void adamw_cuda(const AdamWParams& params, Stream stream) {
  if (params.items.empty()) return;
  if (params.items.front().parameter.dtype() == DType::f64) {
    adamw<double>(params, stream);
  } else {
    adamw<float>(params, stream);
  }
}

}  // namespace weft::optim
