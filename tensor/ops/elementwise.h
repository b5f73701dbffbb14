#pragma once

// The frame of the elementwise kernels on the CPU. A kernel goes through its elements in row-major
// order in blocks that stay in the L1 cache. Operands that are dense and of the type computed in
// are used where they lie; others (strided, broadcast, half types, scalars) are brought into a
// small buffer first. So an op is one plain loop per computed type, whatever the layouts and
// storage types are.
#include <algorithm>
#include <array>
#include <cstdint>

#include "weft/tensor/tensor.h"

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
  int64_t filled = 0;  // how many already hold the constant
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
  return dtype == dtype_of<C> || (std::is_same_v<C, uint8_t> && dtype == DType::boolean);
}

/// An input of an elementwise kernel: a tensor of the shape of the result (expanded), or a scalar.
template <class C>
class BlockReader {
 public:
  explicit BlockReader(const Tensor& tensor)
      : loop_(tensor.shape(), {tensor.strides()}),
        data_(tensor.raw_data()),
        gather_(gather_from<C>(tensor.dtype())) {
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

/// Calls body(a, out, count) for every block, on all threads.
template <class A, class R, class Body>
void map_blocks(const BlockReader<A>& a, const BlockWriter<R>& out, int64_t numel, Body&& body) {
  parallel_for(0, numel, kElementwiseGrain, [&](int64_t begin, int64_t end) {
    BlockBuffer<A> buffer_a;
    BlockBuffer<R> buffer_out;
    for (int64_t at = begin; at < end; at += kBlock) {
      const int64_t count = std::min(kBlock, end - at);
      body(a.read(at, count, buffer_a), out.place(at, buffer_out), count);
      out.finish(at, count, buffer_out);
    }
  });
}

/// Calls body(a, b, out, count) for every block, on all threads.
template <class A, class B, class R, class Body>
void map_blocks(const BlockReader<A>& a, const BlockReader<B>& b, const BlockWriter<R>& out,
                int64_t numel, Body&& body) {
  parallel_for(0, numel, kElementwiseGrain, [&](int64_t begin, int64_t end) {
    BlockBuffer<A> buffer_a;
    BlockBuffer<B> buffer_b;
    BlockBuffer<R> buffer_out;
    for (int64_t at = begin; at < end; at += kBlock) {
      const int64_t count = std::min(kBlock, end - at);
      body(a.read(at, count, buffer_a), b.read(at, count, buffer_b), out.place(at, buffer_out),
           count);
      out.finish(at, count, buffer_out);
    }
  });
}

/// Throws ShapeError when writing to `tensor` would write elements more than once.
void check_writable(const char* op, const Tensor& tensor);

/// `source`, or a copy of it if writing to `destination` element by element could change elements
/// of `source` that are still to be read. The same elements in the same layout do not need a copy.
Tensor apart_from(const Tensor& source, const Tensor& destination);

/// The scalar in the type C computed in. Throws DTypeError, naming `op`, when C cannot hold it.
template <class C>
C scalar_as(const char* op, double value, DType dtype);

}  // namespace weft
