#pragma once

// The frame of the elementwise kernels on the CPU. A kernel goes through its elements in row-major
// order in blocks that stay in the L1 cache. Operands that are dense and of the type computed in
// are used where they lie; others (strided, broadcast, half types, scalars) are brought into a
// small buffer first. So an op is one plain loop per computed type, whatever the layouts and
// storage types are.
#include <algorithm>
#include <array>
#include <cstdint>
#include <tuple>
#include <utility>

#include "weft/tensor/tensor.h"

#include "ops/operand.h"
#include "ops/strided.h"

#if defined(__GNUC__) && !defined(__clang__)
/// The loop's output may be one of its inputs, but no iteration reads what another wrote.
#define WEFT_INDEPENDENT_ITERATIONS _Pragma("GCC ivdep")
#else
#define WEFT_INDEPENDENT_ITERATIONS
#endif

namespace weft {

/// Elements of a block.
inline constexpr int64_t kBlock = 1024;

/// Space for one operand's block.
template <class C>
struct BlockBuffer {
  alignas(64) C values[kBlock];
  int64_t filled;               // how many already hold the constant
  BlockBuffer() : filled(0) {}  // written out, because the default would clear the values
};

/// Copies elements [begin, begin + count) in row-major order between a strided tensor and a dense
/// block of C.
template <class C>
using Gather = void (*)(const StridedLoop<1>& loop, const void* data, int64_t begin, int64_t count,
                        C* block);
template <class C>
using Scatter = void (*)(const StridedLoop<1>& loop, void* data, int64_t begin, int64_t count,
                         const C* block);
/// Null where no kernel needs the pair. C is double, float, int64_t, int32_t or uint8_t (for bool
/// as well).
template <class C>
Gather<C> gather_from(DType dtype);
template <class C>
Scatter<C> scatter_to(DType dtype);

/// Whether elements of `dtype` lie in memory as C does.
template <class C>
constexpr bool stored_as(DType dtype) {
  if constexpr (std::is_same_v<C, uint16_t>)
    return dtype == DType::bf16 || dtype == DType::f16;
  else
    return dtype == dtype_of<C> || (std::is_same_v<C, uint8_t> && dtype == DType::boolean);
}

/// `tensor`, or a dense copy where reading its elements in row-major order would touch a new cache
/// line for each: a transposing copy goes in tiles.
Tensor readable_in_order(const Tensor& tensor);

/// An input of an elementwise kernel: a tensor of the shape of the result (expanded), or a scalar.
template <class C>
class BlockReader {
 public:
  explicit BlockReader(const Tensor& original)
      : tensor_(readable_in_order(original)),
        loop_(tensor_.shape(), {tensor_.strides()}),
        data_(tensor_.raw_data()),
        gather_(gather_from<C>(tensor_.dtype())) {
    const Tensor& tensor = tensor_;
    const bool flat = loop_.shape.rank() == 1;
    if (flat && loop_.strides[0][0] == 1 && stored_as<C>(tensor.dtype())) {
      in_place_ = static_cast<const C*>(data_);
    } else if (tensor.numel() > 0 && flat && loop_.strides[0][0] == 0) {
      is_constant_ = true;
      gather_(loop_, data_, 0, 1, &constant_);
    }
  }
  explicit BlockReader(C scalar) : loop_({}, {Strides{}}), constant_(scalar), is_constant_(true) {}

  /// `count` (at most kBlock) elements from `begin` on, in the tensor or in `buffer`. A buffer
  /// serves one reader.
  const C* read(int64_t begin, int64_t count, BlockBuffer<C>& buffer) const {
    if (in_place_ != nullptr) return in_place_ + begin;
    if (is_constant_) {
      for (; buffer.filled < count; ++buffer.filled) buffer.values[buffer.filled] = constant_;
    } else {
      gather_(loop_, data_, begin, count, buffer.values);
    }
    return buffer.values;
  }

 private:
  Tensor tensor_;
  StridedLoop<1> loop_;
  const void* data_ = nullptr;
  Gather<C> gather_ = nullptr;
  const C* in_place_ = nullptr;
  C constant_{};
  bool is_constant_ = false;
};

/// The result of an elementwise kernel.
template <class C>
class BlockWriter {
 public:
  explicit BlockWriter(Tensor& tensor)
      : loop_(tensor.shape(), {tensor.strides()}),
        data_(tensor.raw_data()),
        scatter_(scatter_to<C>(tensor.dtype())) {
    if (loop_.shape.rank() == 1 && loop_.strides[0][0] == 1 && stored_as<C>(tensor.dtype()))
      in_place_ = static_cast<C*>(data_);
  }

  /// Where to write the block that starts at `begin`, before finish() of the same block.
  C* place(int64_t begin, BlockBuffer<C>& buffer) const {
    return in_place_ != nullptr ? in_place_ + begin : buffer.values;
  }
  void finish(int64_t begin, int64_t count, const BlockBuffer<C>& buffer) const {
    if (in_place_ == nullptr) scatter_(loop_, data_, begin, count, buffer.values);
  }

 private:
  StridedLoop<1> loop_;
  void* data_;
  Scatter<C> scatter_;
  C* in_place_ = nullptr;
};

namespace detail {
template <size_t... I, class Body, class R, class... C>
void map_block_range(std::index_sequence<I...>, int64_t begin, int64_t end, const Body& body,
                     const BlockWriter<R>& out, const BlockReader<C>&... in) {
  std::tuple<BlockBuffer<C>...> buffers;
  BlockBuffer<R> buffer_out;
  for (int64_t at = begin; at < end; at += kBlock) {
    const int64_t count = std::min(kBlock, end - at);
    const auto call = [&](const auto&... position) {
      body(position..., in.read(at, count, std::get<I>(buffers))..., out.place(at, buffer_out),
           count);
    };
    if constexpr (std::is_invocable_v<const Body&, int64_t, const C*..., R*, int64_t>) {
      call(at);
    } else {
      call();
    }
    out.finish(at, count, buffer_out);
  }
}
}  // namespace detail

/// Calls body(in..., out, count) with pointers to dense elements for every block, on all threads. A
/// body that takes one more argument gets the block's first position before the others.
template <class Body, class R, class... C>
void map_blocks(int64_t numel, const Body& body, const BlockWriter<R>& out,
                const BlockReader<C>&... in) {
  const int64_t blocks = (numel + kBlock - 1) / kBlock;
  parallel_for(0, blocks, kElementwiseGrain / kBlock, [&](int64_t first, int64_t last) {
    detail::map_block_range(std::index_sequence_for<C...>(), first * kBlock,
                            std::min(last * kBlock, numel), body, out, in...);
  });
}

/// The type in which elements of T are computed.
template <class T>
using computed_t = std::conditional_t<std::is_integral_v<T>, T, accumulator_t<T>>;

/// A reader of the operand, for a result of `dtype`.
template <class C>
BlockReader<C> operand_reader(const char* op, const Operand& operand, DType dtype) {
  return operand.tensor.defined() ? BlockReader<C>(operand.tensor)
                                  : BlockReader<C>(scalar_as<C>(op, operand.scalar, dtype));
}

}  // namespace weft
