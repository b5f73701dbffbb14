#include <atomic>

#include "weft/tensor/dispatch.h"

#include "ops/compare_kernels.h"
#include "ops/elementwise.h"

namespace weft {
namespace {

template <CompareOp op, class C>
uint8_t compare_one(C a, C b) {
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
      return a != 0 && b != 0;
    case CompareOp::logical_or:
      return a != 0 || b != 0;
    case CompareOp::logical_xor:
      return (a != 0) != (b != 0);
  }
  return 0;
}

template <CompareOp op, class C>
void compare_block(const C* a, const C* b, uint8_t* out, int64_t count) {
  WEFT_INDEPENDENT_ITERATIONS
  for (int64_t i = 0; i < count; ++i) out[i] = compare_one<op>(a[i], b[i]);
}

template <class C>
void compare_typed(CompareOp op, const char* name, DType dtype, const Operand& a, const Operand& b,
                   Tensor& out) {
  using Block = void (*)(const C*, const C*, uint8_t*, int64_t);
  // In the order of CompareOp.
  constexpr Block kBlocks[] = {
      &compare_block<CompareOp::eq, C>,          &compare_block<CompareOp::ne, C>,
      &compare_block<CompareOp::lt, C>,          &compare_block<CompareOp::le, C>,
      &compare_block<CompareOp::gt, C>,          &compare_block<CompareOp::ge, C>,
      &compare_block<CompareOp::logical_and, C>, &compare_block<CompareOp::logical_or, C>,
      &compare_block<CompareOp::logical_xor, C>,
  };
  map_blocks(out.numel(), kBlocks[static_cast<size_t>(op)], BlockWriter<uint8_t>(out),
             operand_reader<C>(name, a, dtype), operand_reader<C>(name, b, dtype));
}

template <class C>
void where_typed(const Tensor& condition, const Operand& a, const Operand& b, Tensor& out) {
  map_blocks(
      out.numel(),
      [](const uint8_t* choice, const C* x, const C* y, C* result, int64_t count) {
        WEFT_INDEPENDENT_ITERATIONS
        for (int64_t i = 0; i < count; ++i) result[i] = choice[i] != 0 ? x[i] : y[i];
      },
      BlockWriter<C>(out), BlockReader<uint8_t>(condition),
      operand_reader<C>("where", a, out.dtype()), operand_reader<C>("where", b, out.dtype()));
}

/// How infinity and NaN look in the bits of a floating type: magnitude at least kInfinity.
template <class T>
struct FloatBits;
template <>
struct FloatBits<double> {
  using Word = uint64_t;
  static constexpr Word kMagnitude = 0x7fffffffffffffffu;
  static constexpr Word kInfinity = 0x7ff0000000000000u;
};
template <>
struct FloatBits<float> {
  using Word = uint32_t;
  static constexpr Word kMagnitude = 0x7fffffffu;
  static constexpr Word kInfinity = 0x7f800000u;
};
template <>
struct FloatBits<bf16> {
  using Word = uint16_t;
  static constexpr Word kMagnitude = 0x7fffu;
  static constexpr Word kInfinity = 0x7f80u;
};
template <>
struct FloatBits<f16> {
  using Word = uint16_t;
  static constexpr Word kMagnitude = 0x7fffu;
  static constexpr Word kInfinity = 0x7c00u;
};

/// Largest magnitude, as bits, among `count` elements. An integer maximum vectorises, and its early
/// exit is not worth a branch per element.
template <class T>
typename FloatBits<T>::Word largest_magnitude(const T* x, int64_t stride, int64_t count) {
  using Word = typename FloatBits<T>::Word;
  Word largest = 0;
  const auto magnitude = [](T value) {
    if constexpr (std::is_floating_point_v<T>) {
      return static_cast<Word>(std::bit_cast<Word>(value) & FloatBits<T>::kMagnitude);
    } else {
      return static_cast<Word>(value.bits & FloatBits<T>::kMagnitude);
    }
  };
  if (stride == 1) {
    for (int64_t i = 0; i < count; ++i) largest = std::max(largest, magnitude(x[i]));
  } else {
    for (int64_t i = 0; i < count; ++i) largest = std::max(largest, magnitude(x[i * stride]));
  }
  return largest;
}

}  // namespace

void compare_cpu(CompareOp op, const char* name, DType dtype, const Operand& a, const Operand& b,
                 Tensor& out, Stream /*stream*/) {
  dispatch_all(dtype, name, [&]<class T>() {
    using C = std::conditional_t<std::is_same_v<T, bool>, uint8_t, computed_t<T>>;
    compare_typed<C>(op, name, dtype, a, b, out);
  });
}

void where_cpu(const Tensor& condition, const Operand& a, const Operand& b, Tensor& out,
               Stream /*stream*/) {
  dispatch_all(out.dtype(), "where", [&]<class T>() {
    if constexpr (std::is_same_v<T, bool>) {
      where_typed<uint8_t>(condition, a, b, out);
    } else if constexpr (std::is_same_v<T, bf16> || std::is_same_v<T, f16>) {
      where_typed<uint16_t>(condition, a, b, out);
    } else {
      where_typed<T>(condition, a, b, out);
    }
  });
}

void classify_cpu(ClassifyOp op, const Tensor& x, Tensor& out, Stream /*stream*/) {
  dispatch_floating(x.dtype(), "classify", [&]<class T>() {
    using C = accumulator_t<T>;
    using Bits = FloatBits<C>;
    const bool nan = op == ClassifyOp::isnan;
    map_blocks(
        out.numel(),
        [nan](const C* in, uint8_t* result, int64_t count) {
          for (int64_t i = 0; i < count; ++i) {
            const auto magnitude = std::bit_cast<typename Bits::Word>(in[i]) & Bits::kMagnitude;
            result[i] = nan ? magnitude > Bits::kInfinity : magnitude < Bits::kInfinity;
          }
        },
        BlockWriter<uint8_t>(out), BlockReader<C>(x));
  });
}

bool all_finite_cpu(const Tensor& x, Stream /*stream*/) {
  std::atomic<bool> finite{true};
  dispatch_floating(x.dtype(), "all_finite", [&]<class T>() {
    const StridedLoop<1> loop(x.shape(), {x.strides()});
    const T* const data = x.data<T>();
    constexpr int64_t kCheckEvery = 16384;
    loop.for_each_run(
        kElementwiseGrain, [&](const auto& offsets, const auto& strides, int64_t count) {
          for (int64_t at = 0; at < count; at += kCheckEvery) {
            if (!finite.load(std::memory_order_relaxed)) return;
            const T* const run = data + offsets[0] + at * strides[0];
            if (largest_magnitude(run, strides[0], std::min(kCheckEvery, count - at)) >=
                FloatBits<T>::kInfinity)
              finite.store(false, std::memory_order_relaxed);
          }
        });
  });
  return finite.load();
}

}  // namespace weft
