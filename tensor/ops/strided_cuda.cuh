#pragma once

// Elementwise kernels with several results, which map_elements() of cuda/elementwise.cuh does not
// make.
#include <array>

#include "cuda/index_math.h"
#include "ops/rows_cuda.cuh"

namespace weft::cuda {

inline constexpr int kMapThreads = 256;

template <class T, int kInputs, int kOutputs>
struct Operands {
  const T* in[kInputs];
  T* out[kOutputs];
};

/// Function: operator()(const A (&in)[kInputs], A (&out)[kOutputs]) for one element.
template <class T, int kWidth, int kInputs, int kOutputs, class Function>
__global__ void __launch_bounds__(kMapThreads)
    map_kernel(const IndexMap<kInputs + kOutputs> map, uint32_t positions,
               const Operands<T, kInputs, kOutputs> at, const Function function) {
  using A = accumulator_t<T>;
  const uint32_t position = blockIdx.x * kMapThreads + threadIdx.x;
  if (position >= positions) return;
  const auto offsets = map.offsets(position);
  Pack<T, kWidth> in[kInputs];
#pragma unroll
  for (int i = 0; i < kInputs; ++i) in[i] = load_pack<kWidth>(at.in[i] + offsets.of[i]);
  Pack<T, kWidth> out[kOutputs];
#pragma unroll
  for (int k = 0; k < kWidth; ++k) {
    A values[kInputs];
    A results[kOutputs];
#pragma unroll
    for (int i = 0; i < kInputs; ++i) values[i] = widen(in[i].values[k]);
    function(values, results);
#pragma unroll
    for (int i = 0; i < kOutputs; ++i) out[i].values[k] = narrow<T>(results[i]);
  }
#pragma unroll
  for (int i = 0; i < kOutputs; ++i) store_pack(at.out[i] + offsets.of[kInputs + i], out[i]);
}

/// Writes function(inputs) to the outputs, all of one shape, of at least one element, and of T.
template <class T, int kInputs, int kOutputs, class Function>
void map_tensors(const char* op, const std::array<const Tensor*, kInputs>& inputs,
                 const std::array<Tensor*, kOutputs>& outputs, Function function, Stream stream) {
  constexpr int kCount = kInputs + kOutputs;
  constexpr int kWidth = kPackWidth<T>;
  std::array<Strides, kCount> strides;
  std::array<uint64_t, kCount> addresses;
  std::array<uint64_t, kCount> sizes;
  for (size_t i = 0; i < kCount; ++i) {
    const Tensor& tensor = i < kInputs ? *inputs[i] : *outputs[i - kInputs];
    strides[i] = tensor.strides();
    addresses[i] = reinterpret_cast<uint64_t>(tensor.raw_data());
    sizes[i] = sizeof(T);
  }
  const StridedLoop<kCount> loop(outputs[0]->shape(), strides);
  const int last = loop.shape.rank() - 1;
  bool packs =
      loop.shape[last] % kWidth == 0 && is_vectorizable<kCount>(loop, kWidth, addresses, sizes);
  for (const Strides& operand : loop.strides) packs = packs && operand[last] == 1;
  for_each_piece<kCount>(
      loop, kPieceLimit,
      [&](const StridedLoop<kCount>& part, const std::array<int64_t, kCount>& offsets, int64_t) {
        Operands<T, kInputs, kOutputs> at;
        for (size_t i = 0; i < kInputs; ++i) {
          at.in[i] = inputs[i]->template data<T>() + offsets[i];
        }
        for (size_t i = 0; i < kOutputs; ++i) {
          at.out[i] = outputs[i]->template data<T>() + offsets[kInputs + i];
        }
        const int width = packs ? kWidth : 1;
        const auto positions = static_cast<uint32_t>(part.shape.numel() / width);
        const LaunchShape shape{blocks_for(positions, kMapThreads), kMapThreads};
        launch(op, stream, shape,
               packs ? map_kernel<T, kWidth, kInputs, kOutputs, Function>
                     : map_kernel<T, 1, kInputs, kOutputs, Function>,
               index_map(part, width), positions, at, function);
      });
}

}  // namespace weft::cuda
