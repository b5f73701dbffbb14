// A row of logits is read once for maximum, sum of exponentials and sum together; gradients take a
// second reading. In cross_entropy_both rows of half types wait for it in shared memory; others are
// read again, right after the first time, when they mostly hit the L2 cache. No kernel reads or
// writes outside its row and what pads it, whatever the target.
#include "cuda/shared_memory.cuh"
#include "ops/cross_entropy_kernels.h"
#include "ops/exponential_cuda.cuh"
#include "ops/staged_row_cuda.cuh"

namespace weft {
namespace {

using namespace cuda;

template <class T>
struct Rows {
  using A = accumulator_t<T>;
  const T* logits;
  int64_t stride, count, classes;
  const int64_t* targets;
  int64_t ignore_index;
  A smoothing;
  Fault* fault;

  explicit Rows(const CrossEntropyRows& rows)
      : logits(rows.logits.data<T>()),
        stride(rows.logits.strides()[0]),
        count(rows.logits.size(0)),
        classes(rows.logits.size(1)),
        targets(rows.targets.data<int64_t>()),
        ignore_index(rows.ignore_index),
        smoothing(static_cast<A>(rows.label_smoothing)),
        fault(fault_slot(rows.logits.device())) {}

  __device__ __forceinline__ bool counts(int64_t target) const {
    return target != ignore_index && static_cast<uint64_t>(target) < static_cast<uint64_t>(classes);
  }
  /// For one thread of a row that does not count.
  __device__ void report(const char* op, int64_t target) const {
    if (target != ignore_index) report_fault(fault, FaultKind::target, op, target, classes);
  }
};

/// What a row's loss is made of.
template <class T>
struct RowSums {
  using A = accumulator_t<T>;
  A max, sum, mean, logsumexp;
};

template <class Shape, class T, class Reader>
__device__ __forceinline__ RowSums<T> sums_of(const Rows<T>& rows, const Reader& reader) {
  using A = accumulator_t<T>;
  constexpr int kWidth = Shape::kWidth;
  Running<T> running;
  A total = 0;
  reader.for_each([&](int64_t i, const A(&values)[1][kWidth]) {
    take_quickly(running, values[0]);
    if (rows.smoothing != 0) {
#pragma unroll
      for (int k = 0; k < kWidth; ++k) {
        if (i + k < rows.classes) total += values[0][k];
      }
    }
  });
  running.template combine<Shape::kThreads>();
  if (rows.smoothing != 0) total = sum_over<Shape::kThreads>(total);
  const bool nothing = running.max == kMinusInfinity<A>;
  return {running.max, running.sum, total / static_cast<A>(rows.classes),
          nothing ? running.max : running.max + log(running.sum)};
}

template <class T, class Shape>
__global__ void __launch_bounds__(Shape::kBlockThreads)
    forward(const Rows<T> rows, accumulator_t<T>* __restrict__ losses,
            accumulator_t<T>* __restrict__ logsumexp, const char* op) {
  using A = accumulator_t<T>;
  const int64_t row = Shape::row();
  if (row >= rows.count) return;
  const T* const x = rows.logits + row * rows.stride;
  const RowReader<T, Shape, 1> reader({x}, rows.classes);
  const RowSums<T> sums = sums_of<Shape>(rows, reader);
  if (Shape::thread() != 0) return;
  const int64_t target = rows.targets[row];
  A loss = 0;
  if (rows.counts(target)) {
    loss = sums.logsumexp - ((1 - rows.smoothing) * widen(x[target]) + rows.smoothing * sums.mean);
  } else {
    rows.report(op, target);
  }
  losses[row] = loss;
  logsumexp[row] = sums.logsumexp;
}

template <class T, class Shape>
__global__ void __launch_bounds__(Shape::kBlockThreads)
    backward(const Rows<T> rows, const accumulator_t<T>* __restrict__ logsumexp,
             const accumulator_t<T>* __restrict__ dlosses, int64_t dloss_stride,
             T* __restrict__ dlogits) {
  using A = accumulator_t<T>;
  constexpr int kWidth = Shape::kWidth;
  const int64_t row = Shape::row();
  if (row >= rows.count) return;
  const int64_t target = rows.targets[row];
  const bool counts = rows.counts(target);
  const A shift = logsumexp[row];
  const A scale = dlosses[row * dloss_stride];
  const A everywhere = rows.smoothing / static_cast<A>(rows.classes);
  T* const out = dlogits + row * rows.classes;
  const RowReader<T, Shape, 1> reader({rows.logits + row * rows.stride}, rows.classes);
  reader.for_each([&](int64_t i, const A(&values)[1][kWidth]) {
    A results[kWidth];
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      A p = exponential<T>(values[0][k] - shift) - everywhere;
      if (i + k == target) p -= 1 - rows.smoothing;
      results[k] = counts ? p * scale : A(0);
    }
    store_values(out + i, results);
  });
}

/// The gradients replace the logits: a thread writes where it alone has read.
template <class T, class Shape, class Row>
__global__ void __launch_bounds__(Shape::kBlockThreads)
    both(const Rows<T> rows, T* logits, const accumulator_t<T>* dloss, accumulator_t<T>* losses,
         const char* op) {
  using A = accumulator_t<T>;
  constexpr int kWidth = Shape::kWidth;
  extern __shared__ __align__(16) unsigned char staged[];
  const int64_t row = Shape::row();
  if (row >= rows.count) return;
  T* const x = logits + row * rows.stride;
  const Row reader(x, rows.classes,
                   staged + threadIdx.x / Shape::kThreads * Row::bytes(rows.classes));
  const int64_t target = rows.targets[row];
  const bool counts = rows.counts(target);
  const A target_logit = counts ? widen(x[target]) : A(0);
  const A scale = dloss == nullptr ? A(1) : *dloss;
  reader.wait();
  __syncwarp();  // the target's logit is read before any lane writes
  if (!counts) {
    if (Shape::thread() == 0) {
      losses[row] = 0;
      rows.report(op, target);
    }
    reader.for_each([&](int64_t i, const A(&)[1][kWidth]) {
      const A zeros[kWidth] = {};
      store_values(x + i, zeros);
    });
    return;
  }
  const RowSums<T> sums = sums_of<Shape>(rows, reader);
  if (Shape::thread() == 0) {
    losses[row] =
        sums.logsumexp - ((1 - rows.smoothing) * target_logit + rows.smoothing * sums.mean);
  }
  const A factor = scale / sums.sum;
  const A everywhere = rows.smoothing / static_cast<A>(rows.classes) * scale;
  const A at_target = (1 - rows.smoothing) * scale;
  reader.for_each([&](int64_t i, const A(&values)[1][kWidth]) {
    A results[kWidth];
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      results[k] = quick_exponential<T>(values[0][k] - sums.max) * factor - everywhere;
    }
    if (target >= i && target - i < kWidth) {
      const int at = static_cast<int>(target - i);
#pragma unroll
      for (int k = 0; k < kWidth; ++k) {
        if (k == at) results[k] -= at_target;
      }
    }
    store_values(x + i, results);
  });
}

/// Calls body.template operator()<RowShape>() for rows that are read again, not kept.
template <class T, class Body>
void dispatch_shape(int64_t classes, bool aligned, Body&& body) {
  constexpr int kWidth = kPackWidth<T>;
  if (aligned) {
    if (classes <= 1024) return body.template operator()<RowShape<32, kWidth, 0>>();
    if (classes <= 16384) return body.template operator()<RowShape<256, kWidth, 0>>();
    return body.template operator()<RowShape<512, kWidth, 0>>();
  }
  if (classes <= 1024) return body.template operator()<RowShape<32, 1, 0>>();
  return body.template operator()<RowShape<512, 1, 0>>();
}

}  // namespace

void cross_entropy_forward_cuda(const CrossEntropyRows& params, Tensor& losses, Tensor& logsumexp,
                                Stream stream) {
  dispatch_floating(params.logits.dtype(), "cross_entropy", [&]<class T>() {
    using A = accumulator_t<T>;
    const Rows<T> rows(params);
    dispatch_shape<T>(rows.classes, rows_are_aligned(params.logits), [&]<class Shape>() {
      launch("cross_entropy", stream, {Shape::blocks(rows.count), Shape::kBlockThreads},
             forward<T, Shape>, rows, losses.data<A>(), logsumexp.data<A>(), "cross_entropy");
    });
  });
}

void cross_entropy_backward_cuda(const CrossEntropyRows& params, const Tensor& logsumexp,
                                 const Tensor& dlosses, Tensor& dlogits, Stream stream) {
  dispatch_floating(params.logits.dtype(), "cross_entropy_backward", [&]<class T>() {
    using A = accumulator_t<T>;
    const Rows<T> rows(params);
    const bool aligned = rows_are_aligned(params.logits, dlogits);
    dispatch_shape<T>(rows.classes, aligned, [&]<class Shape>() {
      launch("cross_entropy_backward", stream, {Shape::blocks(rows.count), Shape::kBlockThreads},
             backward<T, Shape>, rows, logsumexp.data<A>(), dlosses.data<A>(), dlosses.strides()[0],
             dlogits.data<T>());
    });
  });
}

void cross_entropy_both_cuda(CrossEntropyRows& params, const Tensor& dloss, Tensor& losses,
                             Tensor& /*dlogits*/, Stream stream) {
  constexpr const char* kOp = "linear_cross_entropy";
  dispatch_floating(params.logits.dtype(), kOp, [&]<class T>() {
    using A = accumulator_t<T>;
    const Rows<T> rows(params);
    const auto run = [&]<class Shape, class Row>() {
      const int64_t shared = Shape::kRowsPerBlock * Row::bytes(rows.classes);
      const auto kernel = &both<T, Shape, Row>;
      allow_shared_bytes(kernel, static_cast<size_t>(shared), stream);
      launch(kOp, stream,
             {Shape::blocks(rows.count), Shape::kBlockThreads, static_cast<size_t>(shared)}, kernel,
             rows, params.logits.data<T>(), dloss.defined() ? dloss.data<A>() : nullptr,
             losses.data<A>(), kOp);
    };
    if constexpr (sizeof(T) == 2) {
      constexpr int kWidth = kPackWidth<T>;
      if (is_aligned(rows.logits, rows.stride * 2) && staged_row_fits(rows.classes, stream)) {
        const auto run_staged = [&]<class Shape>() {
          run.template operator()<Shape, StagedRow<T, Shape>>();
        };
        if (rows.classes <= 1024) return run_staged.template operator()<RowShape<32, kWidth, 0>>();
        if (rows.classes <= 8192) return run_staged.template operator()<RowShape<256, kWidth, 0>>();
        return run_staged.template operator()<RowShape<1024, kWidth, 0>>();
      }
    }
    dispatch_shape<T>(rows.classes, rows_are_aligned(params.logits),
                      [&]<class Shape>() { run.template operator()<Shape, PlainRow<T, Shape>>(); });
  });
}

}  // namespace weft
