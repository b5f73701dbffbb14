#pragma once

// The frame of the elementwise kernels on the GPU. A thread computes 16 bytes of the result where
// all operands are dense (or repeat one element) along the innermost axis, else one element. Half
// types are computed in float.
//
//   struct Scale {                         // a functor: elements in, element out
//     float factor;
//     __device__ float operator()(float x) const { return factor * x; }
//   };
//   map_elements<T>("scale", Scale{2.0f}, out, Input<T>(x));
//
// A functor that takes an int64_t before its inputs gets the position in row-major order.
#include <algorithm>
#include <array>
#include <cstdint>
#include <tuple>
#include <type_traits>
#include <utility>

#include "weft/tensor/tensor.h"

#include "cuda/element.cuh"
#include "cuda/index_math.h"
#include "cuda/launch.cuh"
#include "ops/operand.h"

namespace weft::cuda {

/// Stands for the storage type of an operand of any floating type, which is looked up when it is
/// read: for combinations of types too rare to have kernels of their own. Computed in C.
template <class C>
struct AnyFloat {};

template <class T>
struct ComputedOf {
  using type = computed_t<T>;
};
template <class C>
struct ComputedOf<AnyFloat<C>> {
  using type = C;
};

/// An input as kernels get it: a tensor of the shape of the result (expanded), or a scalar where
/// `data` is null.
template <class T>
struct Input {
  using Computed = typename ComputedOf<T>::type;

  const void* data = nullptr;
  DType dtype{};
  Computed scalar{};
  Strides strides{};

  Input() = default;
  explicit Input(const Tensor& tensor)
      : data(tensor.raw_data()), dtype(tensor.dtype()), strides(tensor.strides()) {}
  /// One value at all positions.
  Input(Computed value, const Shape& shape) : scalar(value), strides(shape) {
    for (int axis = 0; axis < strides.rank(); ++axis) strides[axis] = 0;
  }
  Input(const char* op, const Operand& operand, const Shape& shape, DType dtype) {
    *this = operand.tensor.defined() ? Input(operand.tensor)
                                     : Input(scalar_as<Computed>(op, operand.scalar, dtype), shape);
  }
};

/// The storage type by which kernels for all layouts read elements that are computed in C.
template <class C>
using any_t = std::conditional_t<std::is_floating_point_v<C>, AnyFloat<C>, C>;

namespace detail {

inline constexpr unsigned kElementwiseThreads = 256;

template <class T>
struct DeviceInput {
  const void* data;
  DType dtype;
  bool is_dense;  // along the innermost axis; else one element is repeated there (V > 1 alone)
  typename ComputedOf<T>::type scalar;
};

template <class C>
__device__ C load_any_float(const void* data, DType dtype, int64_t at) {
  switch (dtype) {
    case DType::f64:
      return static_cast<C>(static_cast<const double*>(data)[at]);
    case DType::f32:
      return static_cast<C>(static_cast<const float*>(data)[at]);
    case DType::bf16:
      return static_cast<C>(to_float(static_cast<const bf16*>(data)[at]));
    default:
      return static_cast<C>(to_float(static_cast<const f16*>(data)[at]));
  }
}

template <class C>
__device__ void store_any_float(void* data, DType dtype, int64_t at, C value) {
  switch (dtype) {
    case DType::f64:
      static_cast<double*>(data)[at] = value;
      break;
    case DType::f32:
      static_cast<float*>(data)[at] = static_cast<float>(value);
      break;
    case DType::bf16:
      static_cast<bf16*>(data)[at] = from_float<bf16>(static_cast<float>(value));
      break;
    default:
      static_cast<f16*>(data)[at] = from_float<f16>(static_cast<float>(value));
  }
}

template <class T>
struct IsAnyFloat : std::false_type {};
template <class C>
struct IsAnyFloat<AnyFloat<C>> : std::true_type {};

/// Elements that one thread computes where it can load them together.
template <class... T>
constexpr int vector_width() {
  if constexpr ((IsAnyFloat<T>::value || ...)) {
    return 1;
  } else {
    return static_cast<int>(16 / std::max({sizeof(T)...}));
  }
}

template <class C, int V>
struct Values {
  C of[V];
};

/// V inputs from element `at` on.
template <int V, class T>
__device__ Values<typename ComputedOf<T>::type, V> read(const DeviceInput<T>& input, int64_t at) {
  using C = typename ComputedOf<T>::type;
  Values<C, V> values;
  if constexpr (V > 1) {
    if (input.data != nullptr && input.is_dense) {
      const Pack<T, V> pack = load_pack<T, V>(static_cast<const T*>(input.data) + at);
#pragma unroll
      for (int i = 0; i < V; ++i) values.of[i] = element_as<C>(pack.values[i]);
      return values;
    }
  }
  C value = input.scalar;
  if (input.data != nullptr) {
    if constexpr (IsAnyFloat<T>::value) {
      value = load_any_float<C>(input.data, input.dtype, at);
    } else {
      value = element_as<C>(static_cast<const T*>(input.data)[at]);
    }
  }
#pragma unroll
  for (int i = 0; i < V; ++i) values.of[i] = value;
  return values;
}

template <class Function, class... C>
__device__ auto apply(const Function& function, int64_t position, C... inputs) {
  if constexpr (std::is_invocable_v<const Function&, int64_t, C...>) {
    return function(position, inputs...);
  } else {
    return function(inputs...);
  }
}

template <int V, class R, class Function, class... C>
__device__ void compute(const Function& function, void* out, DType dtype, int64_t at,
                        int64_t position, const Values<C, V>&... inputs) {
  if constexpr (IsAnyFloat<R>::value) {
    store_any_float(
        out, dtype, at,
        static_cast<typename ComputedOf<R>::type>(apply(function, position, inputs.of[0]...)));
  } else {
    Pack<R, V> pack;
#pragma unroll
    for (int i = 0; i < V; ++i)
      pack.values[i] = element_as<R>(apply(function, position + i, inputs.of[i]...));
    store_pack<R, V>(static_cast<R*>(out) + at, pack);
  }
}

/// A piece of the loop: `vectors` groups of V elements, then, along a single axis, `tail` elements.
template <int N>
struct Piece {
  IndexMap<N> map;
  void* out;
  DType out_dtype;
  uint32_t vectors;
  uint32_t tail;
  int64_t first;  // position of the first element
};

/// All that a thread needs. One argument of the kernel, since g++ cannot name kernels with packs.
template <int V, class R, class Function, class... T>
struct ElementwiseBody {
  static constexpr int kOperands = 1 + sizeof...(T);

  Function function;
  Piece<kOperands> piece;
  std::tuple<DeviceInput<T>...> inputs;

  template <size_t... I>
  __device__ void run(uint32_t thread, std::index_sequence<I...>) const {
    if (thread < piece.vectors) {
      const auto offsets = piece.map.offsets(thread);
      compute<V, R>(function, piece.out, piece.out_dtype, offsets.of[0],
                    piece.first + static_cast<int64_t>(thread) * V,
                    read<V>(std::get<I>(inputs), offsets.of[1 + I])...);
    } else if (V > 1 && thread - piece.vectors < piece.tail) {
      const int64_t at = static_cast<int64_t>(piece.vectors) * V + (thread - piece.vectors);
      compute<1, R>(function, piece.out, piece.out_dtype, at, piece.first + at,
                    read<1>(std::get<I>(inputs), std::get<I>(inputs).is_dense ? at : 0)...);
    }
  }
};

template <class Body>
__global__ void __launch_bounds__(kElementwiseThreads) elementwise_kernel(const Body body) {
  body.run(blockIdx.x * kElementwiseThreads + threadIdx.x,
           std::make_index_sequence<Body::kOperands - 1>());
}

template <class T>
int64_t element_bytes(DType dtype) {
  if constexpr (IsAnyFloat<T>::value) {
    return static_cast<int64_t>(size_of(dtype));
  } else {
    return sizeof(T);
  }
}

template <int V, class R, class Function, class... T, size_t... I>
void launch_pieces(std::index_sequence<I...>, const char* op, Stream stream,
                   const Function& function, const StridedLoop<1 + sizeof...(T)>& loop, Tensor& out,
                   const Input<T>&... inputs) {
  constexpr int N = 1 + sizeof...(T);
  using Body = ElementwiseBody<V, R, Function, T...>;
  for_each_piece<N>(
      loop, kPieceLimit,
      [&](const StridedLoop<N>& part, const std::array<int64_t, N>& offsets, int64_t first) {
        const int64_t count = part.shape.numel();
        Piece<N> piece;
        piece.map = index_map(part, V);
        piece.out = static_cast<char*>(out.raw_data()) + offsets[0] * element_bytes<R>(out.dtype());
        piece.out_dtype = out.dtype();
        piece.vectors = static_cast<uint32_t>(count / V);
        piece.tail = static_cast<uint32_t>(count % V);
        piece.first = first;
        [[maybe_unused]] const int last = part.shape.rank() - 1;
        launch(
            op, stream,
            {dim3(blocks_for(piece.vectors + piece.tail, kElementwiseThreads)),
             dim3(kElementwiseThreads)},
            &elementwise_kernel<Body>,
            Body{function,
                 piece,
                 {DeviceInput<T>{inputs.data == nullptr
                                     ? nullptr
                                     : static_cast<const char*>(inputs.data) +
                                           offsets[1 + I] * element_bytes<T>(inputs.dtype),
                                 inputs.dtype, part.strides[1 + I][last] != 0, inputs.scalar}...}});
      });
}

template <class Function, class... T>
inline constexpr bool kIsPositional =
    std::is_invocable_v<const Function&, int64_t, typename ComputedOf<T>::type...>;

template <class Function, class... T>
StridedLoop<1 + sizeof...(T)> loop_of(const Tensor& out, const Input<T>&... inputs) {
  constexpr int N = 1 + sizeof...(T);
  const std::array<Strides, N> strides{out.strides(), inputs.strides...};
  if constexpr (kIsPositional<Function, T...>) {
    return StridedLoop<N>(out.shape(), strides);
  } else {
    return loop_in_memory_order<N>(out.shape(), strides);
  }
}

}  // namespace detail

/// Computes the result in vectors and returns true, or returns false, with nothing done, where the
/// layouts do not allow that; the caller then has a kernel for all layouts.
template <class R, class Function, class... T>
bool map_vectors(const char* op, Stream stream, const Function& function, Tensor& out,
                 const Input<T>&... inputs) {
  constexpr int N = 1 + sizeof...(T);
  constexpr int V = detail::vector_width<R, T...>();
  static_assert(V > 1);
  if (out.numel() == 0) return true;
  const auto loop = detail::loop_of<Function>(out, inputs...);
  const std::array<uint64_t, N> addresses{reinterpret_cast<uint64_t>(out.raw_data()),
                                          reinterpret_cast<uint64_t>(inputs.data)...};
  if (!is_vectorizable<N>(loop, V, addresses, {sizeof(R), sizeof(T)...})) return false;
  detail::launch_pieces<V, R>(std::index_sequence_for<T...>(), op, stream, function, loop, out,
                              inputs...);
  return true;
}

/// One element a thread, whatever the layouts: one kernel less for what need not be fast.
template <class R, class Function, class... T>
void map_any_layout(const char* op, Stream stream, const Function& function, Tensor& out,
                    const Input<T>&... inputs) {
  if (out.numel() == 0) return;
  detail::launch_pieces<1, R>(std::index_sequence_for<T...>(), op, stream, function,
                              detail::loop_of<Function>(out, inputs...), out, inputs...);
}

/// Computes every element of `out`, of type R, by `function` from those of the inputs at the same
/// position.
template <class R, class Function, class... T>
void map_elements(const char* op, Stream stream, const Function& function, Tensor& out,
                  const Input<T>&... inputs) {
  if (out.numel() == 0) return;
  if constexpr (detail::vector_width<R, T...>() > 1) {
    if (map_vectors<R>(op, stream, function, out, inputs...)) return;
  }
  map_any_layout<R>(op, stream, function, out, inputs...);
}

}  // namespace weft::cuda
