#include <bit>
#include <cstdint>

#include "weft/tensor/dispatch.h"

#include "cuda/elementwise.cuh"
#include "ops/compare_kernels.h"

namespace weft {
namespace {

using cuda::Input;

template <class C>
struct Compare {
  CompareOp op;

  __device__ bool operator()(C a, C b) const {
    switch (op) {
      case CompareOp::eq:
        return a == b;
      case CompareOp::ne:
        return a != b;
      case CompareOp::lt:
        return a < b;
      case CompareOp::le:
        return a <= b;
      case CompareOp::gt:
        return a > b;
      case CompareOp::ge:
        return a >= b;
      // The logical ones get bools, which are 0 or 1.
      case CompareOp::logical_and:
        return a != C{0} && b != C{0};
      case CompareOp::logical_or:
        return a != C{0} || b != C{0};
      default:
        return (a != C{0}) != (b != C{0});
    }
  }
};

struct Choose {
  template <class Bits>
  __device__ Bits operator()(bool condition, Bits a, Bits b) const {
    return condition ? a : b;
  }
};

template <class C>
struct Classify {
  bool nan;
  __device__ bool operator()(C x) const { return nan ? x != x : x - x == C{0}; }
};

template <size_t kBytes>
using bits_t = std::conditional_t<
    kBytes == 1, uint8_t,
    std::conditional_t<kBytes == 2, uint16_t, std::conditional_t<kBytes == 4, uint32_t, uint64_t>>>;

/// An operand of `where` as bits: nothing is computed with it.
template <class T>
Input<bits_t<sizeof(T)>> as_bits(const Operand& operand, const Shape& shape, DType dtype) {
  using Bits = bits_t<sizeof(T)>;
  if (operand.tensor.defined()) return Input<Bits>(operand.tensor);
  // Half types as bits, and bool as u8, as the CPU takes them.
  using C = std::conditional_t<sizeof(T) == 2, uint16_t,
                               std::conditional_t<std::is_same_v<T, bool>, uint8_t, T>>;
  return Input<Bits>(std::bit_cast<Bits>(scalar_as<C>("where", operand.scalar, dtype)), shape);
}

constexpr unsigned kThreads = 256;

/// Sets *found to 1 where an element is infinite or NaN.
template <class T, int V>
__global__ void __launch_bounds__(kThreads)
    find_non_finite(const T* x, int64_t vectors, int64_t count, int32_t* found) {
  using C = cuda::computed_t<T>;
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t threads = static_cast<int64_t>(gridDim.x) * kThreads;
  C sum = 0;  // of x - x, which is 0 for finite numbers and NaN for others
  for (int64_t i = thread; i < vectors; i += threads) {
    const auto pack = cuda::load_pack<T, V>(x + i * V);
#pragma unroll
    for (int k = 0; k < V; ++k) {
      const C value = cuda::element_as<C>(pack.values[k]);
      sum += value - value;
    }
  }
  for (int64_t i = vectors * V + thread; i < count; i += threads) {
    const C value = cuda::element_as<C>(x[i]);
    sum += value - value;
  }
  if (sum != C{0}) *found = 1;  // all that write write the same
}

}  // namespace

void compare_cuda(CompareOp op, const char* name, DType dtype, const Operand& a, const Operand& b,
                  Tensor& out, Stream stream) {
  dispatch_all(dtype, name, [&]<class Element>() {
    // bool lies in memory as u8 does.
    using T = std::conditional_t<std::is_same_v<Element, bool>, uint8_t, Element>;
    using C = cuda::computed_t<T>;
    const Compare<C> function{op};
    if (cuda::map_vectors<bool>(name, stream, function, out, Input<T>(name, a, out.shape(), dtype),
                                Input<T>(name, b, out.shape(), dtype)))
      return;
    using A = cuda::any_t<C>;
    cuda::map_any_layout<bool>(name, stream, function, out, Input<A>(name, a, out.shape(), dtype),
                               Input<A>(name, b, out.shape(), dtype));
  });
}

void where_cuda(const Tensor& condition, const Operand& a, const Operand& b, Tensor& out,
                Stream stream) {
  dispatch_all(out.dtype(), "where", [&]<class T>() {
    cuda::map_elements<bits_t<sizeof(T)>>("where", stream, Choose(), out, Input<bool>(condition),
                                          as_bits<T>(a, out.shape(), out.dtype()),
                                          as_bits<T>(b, out.shape(), out.dtype()));
  });
}

void classify_cuda(ClassifyOp op, const Tensor& x, Tensor& out, Stream stream) {
  dispatch_floating(x.dtype(), "classify", [&]<class T>() {
    using C = accumulator_t<T>;
    cuda::map_any_layout<bool>("classify", stream, Classify<C>{op == ClassifyOp::isnan}, out,
                               Input<cuda::AnyFloat<C>>(x));
  });
}

bool all_finite_cuda(const Tensor& x, Stream stream) {
  const Tensor dense = x.contiguous();
  const Tensor found = zeros({1}, DType::i32, x.device());
  dispatch_floating(dense.dtype(), "all_finite", [&]<class T>() {
    constexpr int V = 16 / sizeof(T);
    const bool is_aligned = reinterpret_cast<uintptr_t>(dense.raw_data()) % 16 == 0;
    const int64_t vectors = is_aligned ? dense.numel() / V : 0;
    const int64_t work = vectors > 0 ? vectors : dense.numel();
    const int64_t most = 8 * cuda::device_context(x.device()).multiprocessors();
    const auto blocks =
        static_cast<unsigned>(std::min<int64_t>(most, (work + kThreads - 1) / kThreads));
    cuda::launch("all_finite", stream, {dim3(blocks), dim3(kThreads)}, &find_non_finite<T, V>,
                 static_cast<const T*>(dense.raw_data()), vectors, dense.numel(),
                 static_cast<int32_t*>(found.raw_data()));
  });
  return found.item<int32_t>() == 0;
}

}  // namespace weft
