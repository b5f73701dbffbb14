#include "kernels/muon.h"
#include "kernels/tensor_list_cuda.cuh"

namespace weft::optim {
namespace {

template <class T>
struct Item {
  T* parameter;
  const T* grad;
  T* buffer;
  HalfCopy copy;
  int64_t size;
  int number;  // of the item in the call
  int row;
  bool aligned;
};

template <class T>
struct Coefficients {
  T momentum;
  bool nesterov;

  /// Of momentum and gradient, in units of the gradient as it is.
  __device__ __forceinline__ T direction(T grad_scale, T grad, T buffer) const {
    const T of_grad = nesterov ? grad_scale : T(0);
    const T of_buffer = nesterov ? momentum : T(1);
    return of_grad * grad + of_buffer * buffer;
  }
};

template <class T>
Coefficients<T> coefficients(const MuonParams& params) {
  return {static_cast<T>(params.momentum), params.nesterov};
}

/// The items, with `aligned` holding for packs of `stacked` as well where it is given.
template <class T>
std::vector<Item<T>> items_of(const MuonParams& params, const Tensor& stacked = {}) {
  std::vector<Item<T>> items;
  items.reserve(params.items.size());
  for (MuonItem& from : params.items) {
    Item<T> item{.parameter = from.parameter.data<T>(),
                 .grad = from.grad.data<T>(),
                 .buffer = from.momentum_buffer.data<T>(),
                 .copy = HalfCopy::of(from.copy),
                 .size = from.parameter.numel(),
                 .number = static_cast<int>(items.size()),
                 .row = static_cast<int>(from.row),
                 .aligned = false};
    item.aligned = all_aligned(item.parameter, item.grad, item.buffer) && item.copy.is_aligned();
    if (stacked.defined()) {
      item.aligned =
          item.aligned && all_aligned(stacked.raw_data()) && item.size % cuda::kPackWidth<T> == 0;
    }
    items.push_back(item);
  }
  return items;
}

/// b = momentum b + g, and the sum of squares of the direction over each chunk.
template <class T>
__global__ void __launch_bounds__(kListThreads)
    momentum_chunks(const __grid_constant__ TensorList<Item<T>> list, const Coefficients<T> c,
                    const DeviceInputs inputs, double* __restrict__ sums) {
  const T grad_scale = inputs.scale<T>();
  const int index = list.item_of_block();
  const Item<T>& item = list.items[index];
  double total = 0;
  const auto take = [&](int64_t i, auto width) {
    constexpr int kWidth = width();
    auto buffer = cuda::load_pack<kWidth>(item.buffer + i);
    const auto grad = cuda::load_pack<kWidth>(item.grad + i);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      buffer.values[k] = c.momentum * buffer.values[k] + grad_scale * grad.values[k];
      const auto direction =
          static_cast<double>(c.direction(grad_scale, grad.values[k], buffer.values[k]));
      total += direction * direction;
    }
    cuda::store_pack(item.buffer + i, buffer);
  };
  if (isfinite(grad_scale))
    walk_chunk<cuda::kPackWidth<T>>(item, blockIdx.x - list.first_block[index], take);
  total = cuda::sum_over<kListThreads>(total);
  if (threadIdx.x == 0) sums[blockIdx.x] = total;
}

/// Adds up the chunks of item blockIdx.x.
template <class T>
__global__ void __launch_bounds__(kListThreads)
    add_up(const __grid_constant__ TensorList<Item<T>> list, const double* __restrict__ sums,
           double* __restrict__ square_sums) {
  double total = 0;
  for (uint32_t block = list.first_block[blockIdx.x] + threadIdx.x;
       block < list.first_block[blockIdx.x + 1]; block += kListThreads) {
    total += sums[block];
  }
  total = cuda::sum_over<kListThreads>(total);
  if (threadIdx.x == 0) square_sums[list.items[blockIdx.x].number] = total;
}

template <class T, class D>
__global__ void __launch_bounds__(kListThreads)
    write_directions(const __grid_constant__ TensorList<Item<T>> list, const Coefficients<T> c,
                     const DeviceInputs inputs, const double* __restrict__ square_sums,
                     D* __restrict__ stacked) {
  const T grad_scale = inputs.scale<T>();
  const bool is_applied = isfinite(grad_scale);  // else zeros, of which nothing comes
  constexpr double kNormFloor = 1e-7;            // a zero direction stays zero
  const int index = list.item_of_block();
  const Item<T>& item = list.items[index];
  const T factor = static_cast<T>(1 / (sqrt(square_sums[item.number]) + kNormFloor));
  D* const to = stacked + item.number * item.size;
  walk_chunk<cuda::kPackWidth<T>>(
      item, blockIdx.x - list.first_block[index], [&](int64_t i, auto width) {
        constexpr int kWidth = width();
        const auto buffer = cuda::load_pack<kWidth>(item.buffer + i);
        const auto grad = cuda::load_pack<kWidth>(item.grad + i);
        T direction[kWidth];
#pragma unroll
        for (int k = 0; k < kWidth; ++k) {
          direction[k] =
              is_applied ? factor * c.direction(grad_scale, grad.values[k], buffer.values[k]) : 0;
        }
        cuda::store_values(to + i, direction);
      });
}

template <class T, class D>
__global__ void __launch_bounds__(kListThreads)
    apply(const __grid_constant__ TensorList<Item<T>> list, const DeviceInputs inputs,
          const D* __restrict__ stacked) {
  if (!isfinite(inputs.scale<T>())) return;
  const int index = list.item_of_block();
  const Item<T>& item = list.items[index];
  const D* const from = stacked + item.number * item.size;
  const T decay = inputs.number<T>(item.row, 0);
  const T step_size = inputs.number<T>(item.row, 1);
  walk_chunk<cuda::kPackWidth<T>>(
      item, blockIdx.x - list.first_block[index], [&](int64_t i, auto width) {
        constexpr int kWidth = width();
        auto p = cuda::load_pack<kWidth>(item.parameter + i);
        const auto x = cuda::load_pack<kWidth>(from + i);
#pragma unroll
        for (int k = 0; k < kWidth; ++k) {
          p.values[k] = decay * p.values[k] - step_size * static_cast<T>(cuda::widen(x.values[k]));
        }
        cuda::store_pack(item.parameter + i, p);
        item.copy.store(i, p);
      });
}

}  // namespace

void muon_momentum_cuda(const MuonParams& params, Tensor& square_sums, Stream stream) {
  dispatch_parameter(params, [&]<class T>() {
    const std::vector<Item<T>> items = items_of<T>(params);
    for_each_list(items, [&](const TensorList<Item<T>>& list, unsigned blocks, int64_t) {
      Tensor sums = empty({static_cast<int64_t>(blocks)}, DType::f64, stream.device());
      cuda::launch("muon_momentum", stream, {blocks, kListThreads}, momentum_chunks<T>, list,
                   coefficients<T>(params), DeviceInputs(params.inputs), sums.data<double>());
      cuda::launch("muon_momentum", stream, {static_cast<unsigned>(list.count), kListThreads},
                   add_up<T>, list, sums.data<double>(), square_sums.data<double>());
    });
  });
}

void muon_direction_cuda(const MuonParams& params, const Tensor& square_sums, Tensor& stacked,
                         Stream stream) {
  dispatch_parameter(params, [&]<class T>() {
    const std::vector<Item<T>> items = items_of<T>(params, stacked);
    dispatch_stacked(stacked, [&]<class D>() {
      for_each_list(items, [&](const TensorList<Item<T>>& list, unsigned blocks, int64_t) {
        cuda::launch("muon_direction", stream, {blocks, kListThreads}, write_directions<T, D>, list,
                     coefficients<T>(params), DeviceInputs(params.inputs),
                     square_sums.data<double>(), stacked.data<D>());
      });
    });
  });
}

void muon_apply_cuda(const MuonParams& params, const Tensor& stacked, Stream stream) {
  dispatch_parameter(params, [&]<class T>() {
    const std::vector<Item<T>> items = items_of<T>(params, stacked);
    dispatch_stacked(stacked, [&]<class D>() {
      for_each_list(items, [&](const TensorList<Item<T>>& list, unsigned blocks, int64_t) {
        cuda::launch("muon_apply", stream, {blocks, kListThreads}, apply<T, D>, list,
                     DeviceInputs(params.inputs), stacked.data<D>());
      });
    });
  });
}

}  // namespace weft::optim
