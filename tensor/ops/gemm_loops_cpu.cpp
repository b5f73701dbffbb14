#include <algorithm>
#include <memory>
#include <type_traits>
#include <vector>

#include "weft/tensor/dispatch.h"

#include "ops/gemm_cpu.h"

namespace weft::cpu {
namespace {

/// One 64-byte register of accumulators.
template <class Acc>
struct Lanes {
  static constexpr int64_t kCount = 64 / sizeof(Acc);
  typedef Acc Vector __attribute__((vector_size(64)));
};

/// Rows of c computed together: enough independent sums to hide the latency of one.
constexpr int64_t kRows = 8;

template <class T>
accumulator_t<T> load(T value) {
  return static_cast<accumulator_t<T>>(value);
}

/// Scratch that a thread keeps for its next call.
template <class Acc>
Acc* scratch(int64_t count) {
  constexpr size_t kAlignment = 64;
  thread_local std::vector<Acc> buffer;
  const size_t needed = static_cast<size_t>(count) + kAlignment / sizeof(Acc);
  if (buffer.size() < needed) buffer.resize(needed);
  void* start = buffer.data();
  size_t room = buffer.size() * sizeof(Acc);
  return static_cast<Acc*>(
      std::align(kAlignment, static_cast<size_t>(count) * sizeof(Acc), start, room));
}

/// How sums become elements of c.
template <class C, class Acc>
struct Output {
  explicit Output(const GemmCall& call)
      : c(call.c),
        bias(call.bias),
        alpha(static_cast<Acc>(call.alpha)),
        beta(static_cast<Acc>(call.beta)) {}

  /// Sums of elements (row, first...) of c.
  void store(int64_t row, int64_t first, const Acc* sums, int64_t count) const {
    C* const to = c.as<C>() + row * c.row_stride + first * c.column_stride;
    for (int64_t j = 0; j < count; ++j) {
      Acc value = alpha * sums[j];
      if (beta != 0) value += beta * static_cast<Acc>(to[j * c.column_stride]);
      if (bias.data != nullptr)
        value += bias.as<Acc>()[row * bias.row_stride + (first + j) * bias.column_stride];
      to[j * c.column_stride] = static_cast<C>(value);
    }
  }

  MatrixView c, bias;
  Acc alpha, beta;
};

/// sums[r] = sum over k of a[k][r] * b[k][:], for panels packed densely.
template <class Acc>
void multiply_panels(int64_t k, const Acc* a, const Acc* b,
                     typename Lanes<Acc>::Vector (&sums)[kRows]) {
  using Vector = typename Lanes<Acc>::Vector;
  for (Vector& sum : sums) sum = Vector{};
  for (int64_t i = 0; i < k; ++i) {
    const Vector row = *reinterpret_cast<const Vector*>(b + i * Lanes<Acc>::kCount);
    for (int64_t r = 0; r < kRows; ++r) sums[r] += a[i * kRows + r] * row;
  }
}

template <class T, class C>
void multiply_matrices(const GemmCall& call) {
  using Acc = accumulator_t<T>;
  constexpr int64_t kLanes = Lanes<Acc>::kCount;
  const int64_t m = call.m, n = call.n, k = call.k;
  const int64_t panels = (n + kLanes - 1) / kLanes;
  Acc* const packed_b = scratch<Acc>(panels * k * kLanes + k * kRows);
  Acc* const packed_a = packed_b + panels * k * kLanes;

  const T* const b = call.b.as<const T>();
  for (int64_t panel = 0; panel < panels; ++panel) {
    const int64_t width = std::min(kLanes, n - panel * kLanes);
    Acc* const to = packed_b + panel * k * kLanes;
    const T* const from = b + panel * kLanes * call.b.column_stride;
    for (int64_t i = 0; i < k; ++i) {
      for (int64_t j = 0; j < width; ++j)
        to[i * kLanes + j] = load(from[i * call.b.row_stride + j * call.b.column_stride]);
      for (int64_t j = width; j < kLanes; ++j) to[i * kLanes + j] = 0;
    }
  }

  const Output<C, Acc> output(call);
  typename Lanes<Acc>::Vector sums[kRows];
  for (int64_t row = 0; row < m; row += kRows) {
    const int64_t height = std::min(kRows, m - row);
    const T* const a = call.a.as<const T>() + row * call.a.row_stride;
    for (int64_t r = 0; r < kRows; ++r) {
      for (int64_t i = 0; i < k; ++i)
        packed_a[i * kRows + r] =
            r < height ? load(a[r * call.a.row_stride + i * call.a.column_stride]) : Acc(0);
    }
    for (int64_t panel = 0; panel < panels; ++panel) {
      multiply_panels<Acc>(k, packed_a, packed_b + panel * k * kLanes, sums);
      const int64_t width = std::min(kLanes, n - panel * kLanes);
      for (int64_t r = 0; r < height; ++r)
        output.store(row + r, panel * kLanes, reinterpret_cast<const Acc*>(&sums[r]), width);
    }
  }
}

/// One column: c [m, 1] = a [m, k] b [k, 1].
template <class T, class C>
void multiply_vector(const GemmCall& call) {
  using Acc = accumulator_t<T>;
  constexpr int64_t kLanes = Lanes<Acc>::kCount;
  const int64_t m = call.m, k = call.k;
  const Output<C, Acc> output(call);
  const T* const a = call.a.as<const T>();
  const bool dense_rows = call.a.column_stride == 1;
  Acc* const x = scratch<Acc>(k + (dense_rows ? 0 : m));
  for (int64_t i = 0; i < k; ++i) x[i] = load(call.b.as<const T>()[i * call.b.row_stride]);

  if (dense_rows) {
    constexpr int64_t kUnroll = 4;
    for (int64_t row = 0; row < m; ++row) {
      const T* const from = a + row * call.a.row_stride;
      Acc parts[kUnroll * kLanes] = {};
      int64_t i = 0;
      for (; i + kUnroll * kLanes <= k; i += kUnroll * kLanes) {
        for (int64_t lane = 0; lane < kUnroll * kLanes; ++lane)
          parts[lane] += load(from[i + lane]) * x[i + lane];
      }
      for (int64_t lane = 0; i < k; ++i, ++lane) parts[lane] += load(from[i]) * x[i];
      Acc sum = 0;
      for (const Acc part : parts) sum += part;
      output.store(row, 0, &sum, 1);
    }
    return;
  }
  Acc* const sums = x + k;
  std::fill_n(sums, m, Acc(0));
  for (int64_t i = 0; i < k; ++i) {
    const T* const from = a + i * call.a.column_stride;
    for (int64_t row = 0; row < m; ++row) sums[row] += load(from[row * call.a.row_stride]) * x[i];
  }
  for (int64_t row = 0; row < m; ++row) output.store(row, 0, sums + row, 1);
}

template <class T, class C>
void multiply(const GemmCall& call) {
  if (call.n == 1) {
    multiply_vector<T, C>(call);
  } else {
    multiply_matrices<T, C>(call);
  }
}

}  // namespace

bool prefers_loops(const GemmCall& call) {
  if (call.n == 1) return true;
  const int64_t work = call.m * call.n * call.k;
#ifdef WEFT_HAVE_ONEDNN
  // Takes a whole batch in one call, and its sgemm starts up at once.
  if (call.a.dtype == DType::f32) return call.batch * work <= 2048;
  if (call.a.dtype == DType::bf16) return call.batch * work <= 16384;
#endif
  return work <= 16384;
}

void gemm_loops(const GemmCall& call) {
  dispatch_floating(call.a.dtype, "matmul", [&]<class T>() {
    if (call.c.dtype == call.a.dtype) {
      multiply<T, T>(call);
    } else if constexpr (!std::is_same_v<T, double>) {
      multiply<T, float>(call);
    }
  });
}

}  // namespace weft::cpu
