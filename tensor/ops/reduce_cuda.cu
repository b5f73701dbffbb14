#include "ops/reduce_cuda.cuh"

namespace weft {
namespace {

/// Sum, or mean. Integers wrap around.
template <class T>
struct Sum {
  using A = cuda::computed_t<T>;
  using Total = std::conditional_t<std::is_integral_v<T>, unsigned long long, double>;
  using Result = std::conditional_t<std::is_integral_v<T>, int64_t, T>;
  bool mean;

  __device__ void start(const T*) {}
  __device__ Total identity() const { return 0; }
  template <class Values>
  __device__ __forceinline__ void take(Total& total, const Values& values, int64_t) const {
    using Part = std::conditional_t<std::is_integral_v<T>, Total, A>;
    total += static_cast<Total>(cuda::fold<Values::kCount>(
        [&](int n) { return static_cast<Part>(values[n]); }, cuda::Add()));
  }
  __device__ Total combine(Total a, Total b) const { return a + b; }
  __device__ Result finish(Total total, int64_t count) const {
    if constexpr (std::is_integral_v<T>) {
      return static_cast<Result>(total);
    } else {
      return cuda::narrow<T>(static_cast<A>(mean ? total / static_cast<Total>(count) : total));
    }
  }
};

/// any, or all.
template <class T>
struct Truth {
  using A = cuda::computed_t<T>;
  using Total = int;
  using Result = bool;
  bool all;

  __device__ void start(const T*) {}
  __device__ Total identity() const { return all; }
  template <class Values>
  __device__ __forceinline__ void take(Total& total, const Values& values, int64_t) const {
    total = combine(total, cuda::fold<Values::kCount>(
                               [&](int n) { return static_cast<Total>(values[n] != A(0)); },
                               [&](Total a, Total b) { return combine(a, b); }));
  }
  __device__ Total combine(Total a, Total b) const { return all ? a & b : a | b; }
  __device__ Result finish(Total total, int64_t) const { return total != 0; }
};

}  // namespace

void cuda::reduce_sum_cuda(const ReduceParams& params, const Tensor& x, Tensor& out,
                           Stream stream) {
  dispatch_all(x.dtype(), params.name, [&]<class T>() {
    run_reduction<T>(params, Sum<T>{params.op == ReduceOp::mean}, x, out, stream);
  });
}

void cuda::reduce_truth_cuda(const ReduceParams& params, const Tensor& x, Tensor& out,
                             Stream stream) {
  dispatch_all(x.dtype(), params.name, [&]<class T>() {
    run_reduction<T>(params, Truth<T>{params.op == ReduceOp::all}, x, out, stream);
  });
}

void reduce_cuda(const ReduceParams& params, const Tensor& x, Tensor& out, Stream stream) {
  switch (params.op) {
    case ReduceOp::sum:
    case ReduceOp::mean:
      return cuda::reduce_sum_cuda(params, x, out, stream);
    case ReduceOp::any:
    case ReduceOp::all:
      return cuda::reduce_truth_cuda(params, x, out, stream);
    case ReduceOp::max:
    case ReduceOp::min:
      return cuda::reduce_extremum_cuda(params, x, out, stream);
    case ReduceOp::argmax:
    case ReduceOp::argmin:
      return cuda::reduce_arg_extremum_cuda(params, x, out, stream);
    case ReduceOp::var:
    case ReduceOp::norm:
    case ReduceOp::logsumexp:
      return cuda::reduce_floating_cuda(params, x, out, stream);
  }
}

}  // namespace weft
