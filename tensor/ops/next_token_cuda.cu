#include "cuda/elementwise.cuh"
#include "cuda/overlapped_launch.cuh"
#include "cuda/streaming_load.cuh"
#include "ops/next_token_kernels.h"
#include "ops/rows_cuda.cuh"

namespace weft {
namespace {

using namespace cuda;

constexpr int kThreads = 256;
constexpr int kChoiceThreads = 1024;

/// Element by element, since types may differ; a step has a few thousand.
__global__ void __launch_bounds__(kThreads)
    copy_rows(const void* table, DType from, int64_t stride, int64_t vocabulary,
              const int64_t* tokens, void* rows, DType to, int64_t length) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (at >= length) return;
  const int64_t token = tokens[blockIdx.y];
  const bool is_known = token >= 0 && token < vocabulary;
  const double value =
      is_known ? weft::cuda::detail::load_any_float<double>(table, from, token * stride + at) : 0;
  weft::cuda::detail::store_any_float(rows, to, blockIdx.y * length + at, value);
}

/// A logit and where it stands; index -1: none.
template <class A>
struct Choice {
  A value;
  int64_t index;
};

template <class A>
__device__ __forceinline__ Choice<A> better(Choice<A> a, Choice<A> b) {
  if (b.index < 0) return a;
  if (a.index < 0) return b;
  if (a.value != b.value) return a.value > b.value ? a : b;
  return a.index < b.index ? a : b;
}

template <class A>
__device__ __forceinline__ Choice<A> best_of_warp(Choice<A> choice) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) choice = better(choice, shuffle_xor(choice, mask));
  return choice;
}

template <class T>
struct Largest {
  const T* logits;
  int64_t stride;
  int64_t count;
  bool aligned;
  int64_t* tokens;
  int64_t* position;
  int64_t* history;  // may be null
  int64_t history_length;
};

/// A block has a row of logits.
template <class T>
__global__ void __launch_bounds__(kChoiceThreads) take_largest_kernel(const Largest<T> p) {
  constexpr int kWidth = kPackWidth<T>;
  using A = accumulator_t<T>;
  __shared__ Choice<A> choices[kChoiceThreads / 32];
  wait_for_earlier_kernels();
  const int thread = static_cast<int>(threadIdx.x);
  const T* const row = p.logits + blockIdx.x * p.stride;
  Choice<A> best{0, -1};
  const auto take = [&](T element, int64_t index) {
    const A value = widen(element);
    // Neither an infinity nor NaN.
    if (isfinite(value) && (best.index < 0 || value > best.value)) best = {value, index};
  };
  const int64_t packed = p.aligned ? p.count / kWidth * kWidth : 0;
#pragma unroll 4
  for (int64_t i = thread * kWidth; i < packed; i += kChoiceThreads * kWidth) {
    const auto pack = load_fresh_pack(row + i);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) take(pack.values[k], i + k);
  }
  for (int64_t i = packed + thread; i < p.count; i += kChoiceThreads) take(load_fresh(row + i), i);
  best = best_of_warp(best);
  if (thread % 32 == 0) choices[thread / 32] = best;
  __syncthreads();
  if (thread >= 32) return;
  best = best_of_warp(choices[thread]);
  if (thread != 0) return;
  const int64_t position = p.position[0];
  p.tokens[blockIdx.x] = best.index;
  if (p.history != nullptr && position < p.history_length)
    p.history[blockIdx.x * p.history_length + position] = best.index;
  __threadfence();
  // All rows have read the position when the last of them comes here.
  auto* const arrived = reinterpret_cast<unsigned long long*>(p.position + 1);
  if (atomicAdd(arrived, 1ull) + 1 == gridDim.x) {
    p.position[1] = 0;
    p.position[0] = position + 1;
  }
}

}  // namespace

void token_rows_cuda(const Tensor& table, const Tensor& tokens, Tensor& rows, Stream stream) {
  const int64_t length = rows.size(1);
  launch("token_rows", stream,
         {dim3(blocks_for(length, kThreads), static_cast<unsigned>(tokens.numel())), kThreads},
         copy_rows, table.raw_data(), table.dtype(), table.strides()[0], table.size(0),
         tokens.data<int64_t>(), rows.raw_data(), rows.dtype(), length);
}

void take_largest_cuda(const Tensor& logits, int64_t count, TokenState& state, bool settled,
                       Stream stream) {
  dispatch_floating(logits.dtype(), "take_largest", [&]<class T>() {
    const bool has_history = state.history.defined();
    const Largest<T> p{.logits = logits.data<T>(),
                       .stride = logits.strides()[0],
                       .count = count,
                       .aligned = is_aligned(logits.raw_data(), logits.strides()[0] * sizeof(T)),
                       .tokens = state.tokens.data<int64_t>(),
                       .position = state.position.data<int64_t>(),
                       .history = has_history ? state.history.data<int64_t>() : nullptr,
                       .history_length = has_history ? state.history.size(1) : 0};
    launch_overlapped("take_largest", stream,
                      {static_cast<unsigned>(logits.size(0)), kChoiceThreads}, settled,
                      take_largest_kernel<T>, p);
  });
}

}  // namespace weft
