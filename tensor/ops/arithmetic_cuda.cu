#include "weft/tensor/dispatch.h"

#include "cuda/elementwise.cuh"
#include "ops/arithmetic_kernels.h"

namespace weft {
namespace {

using cuda::AnyFloat;
using cuda::Input;

/// Integers are computed modulo 2^64 without the undefined overflow of the signed types.
template <class T>
__device__ uint64_t wide(T value) {
  return static_cast<uint64_t>(value);
}

template <class C, class Function>
__device__ C wrapping(C a, C b, const Function& function) {
  if constexpr (std::is_integral_v<C>) {
    return static_cast<C>(function(wide(a), wide(b)));
  } else {
    return function(a, b);
  }
}

template <class T>
__device__ T integer_power(T a, T b) {
  uint64_t power = 1;
  uint64_t square = wide(a);
  for (uint64_t exponent = wide(b); exponent > 0; exponent >>= 1) {
    if (exponent & 1) power *= square;
    square *= square;
  }
  return static_cast<T>(power);
}

/// The operation as a constant, for the kernels of dense operands, or as a value, for the one that
/// takes all layouts.
template <BinaryOp kOp>
struct FixedOp {
  static constexpr BinaryOp op() { return kOp; }
};
struct AnyOp {
  BinaryOp value;
  __host__ __device__ constexpr BinaryOp op() const { return value; }
};

template <class Which, class C>
struct Binary {
  Which which;
  const char* name;
  cuda::Fault* fault;

  __device__ C operator()(C a, C b) const {
    switch (which.op()) {
      case BinaryOp::add:
        return wrapping(a, b, [](auto x, auto y) { return x + y; });
      case BinaryOp::sub:
        return wrapping(a, b, [](auto x, auto y) { return x - y; });
      case BinaryOp::mul:
        return wrapping(a, b, [](auto x, auto y) { return x * y; });
      case BinaryOp::div:
        return divide(a, b);
      case BinaryOp::maximum:
        return (a > b) | (a != a) ? a : b;
      case BinaryOp::minimum:
        return (a < b) | (a != a) ? a : b;
      default:
        return power(a, b);
    }
  }

  __device__ C divide(C a, C b) const {
    if constexpr (std::is_integral_v<C>) {
      if (b == 0) {
        cuda::report_fault(fault, cuda::FaultKind::division_by_zero, name);
        return 0;
      }
      // The lowest value over -1 overflows; negation wraps around.
      if constexpr (std::is_signed_v<C>) {
        if (b == -1) return static_cast<C>(-wide(a));
      }
    }
    return a / b;
  }

  __device__ C power(C a, C b) const {
    if constexpr (std::is_integral_v<C>) {
      if constexpr (std::is_signed_v<C>) {
        if (b < 0) {
          if (a == 0) cuda::report_fault(fault, cuda::FaultKind::division_by_zero, name);
          return a == 1 ? C{1} : a == -1 ? static_cast<C>(b % 2 == 0 ? 1 : -1) : C{0};
        }
      }
      return integer_power(a, b);
    } else {
      return pow(a, b);
    }
  }
};

/// Dense operands of one type.
template <class T, BinaryOp kOp>
bool try_dense(const char* name, cuda::Fault* fault, Tensor& out, const Input<T>& a,
               const Input<T>& b, Stream stream) {
  using C = cuda::computed_t<T>;
  return cuda::map_vectors<T>(name, stream, Binary<FixedOp<kOp>, C>{{}, name, fault}, out, a, b);
}

template <class T>
bool try_dense(BinaryOp op, const char* name, cuda::Fault* fault, Tensor& out, const Input<T>& a,
               const Input<T>& b, Stream stream) {
  switch (op) {
    case BinaryOp::add:
      return try_dense<T, BinaryOp::add>(name, fault, out, a, b, stream);
    case BinaryOp::sub:
      return try_dense<T, BinaryOp::sub>(name, fault, out, a, b, stream);
    case BinaryOp::mul:
      return try_dense<T, BinaryOp::mul>(name, fault, out, a, b, stream);
    case BinaryOp::div:
      return try_dense<T, BinaryOp::div>(name, fault, out, a, b, stream);
    case BinaryOp::maximum:
      return try_dense<T, BinaryOp::maximum>(name, fault, out, a, b, stream);
    case BinaryOp::minimum:
      return try_dense<T, BinaryOp::minimum>(name, fault, out, a, b, stream);
    default:
      return try_dense<T, BinaryOp::pow>(name, fault, out, a, b, stream);
  }
}

bool has_type(const Operand& operand, DType dtype) {
  return !operand.tensor.defined() || operand.tensor.dtype() == dtype;
}

template <class C>
struct AddScaled {
  C alpha;
  __device__ C operator()(C a, C b) const {
    return wrapping(a, wrapping(alpha, b, [](auto x, auto y) { return x * y; }),
                    [](auto x, auto y) { return x + y; });
  }
};

}  // namespace

void binary_cuda(BinaryOp op, const char* name, const Operand& a, const Operand& b, Tensor& out,
                 Stream stream) {
  const DType dtype = out.dtype();
  cuda::Fault* const fault = cuda::fault_slot(out.device());
  dispatch_numeric(dtype, name, [&]<class T>() {
    using C = cuda::computed_t<T>;
    if (has_type(a, dtype) && has_type(b, dtype) &&
        try_dense<T>(op, name, fault, out, Input<T>(name, a, out.shape(), dtype),
                     Input<T>(name, b, out.shape(), dtype), stream))
      return;
    using Any = cuda::any_t<C>;
    cuda::map_elements<Any>(name, stream, Binary<AnyOp, C>{{op}, name, fault}, out,
                            Input<Any>(name, a, out.shape(), dtype),
                            Input<Any>(name, b, out.shape(), dtype));
  });
}

void add_scaled_cuda(Tensor& a, const Tensor& b, double alpha, Stream stream) {
  dispatch_numeric(a.dtype(), "add_", [&]<class T>() {
    using C = cuda::computed_t<T>;
    const AddScaled<C> function{scalar_as<C>("add_", alpha, a.dtype())};
    if (b.dtype() == a.dtype() &&
        cuda::map_vectors<T>("add_", stream, function, a, Input<T>(a), Input<T>(b)))
      return;
    using Any = cuda::any_t<C>;
    cuda::map_elements<Any>("add_", stream, function, a, Input<Any>(a), Input<Any>(b));
  });
}

}  // namespace weft
