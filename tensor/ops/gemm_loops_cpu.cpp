#include <algorithm>
#include <memory>
#include <type_traits>
#include <vector>

#include "weft/tensor/dispatch.h"

#include "ops/gemm_cpu.h"
#include "ops/simd.h"

namespace weft::cpu {
namespace {

/// Rows of c computed together: enough independent sums to hide the latency of one.
constexpr int64_t kRows = 8;

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

  /// Stores the sums of elements (row, first...) of c.
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
void multiply_panels(int64_t k, const Acc* a, const Acc* b, simd::Vec<Acc> (&sums)[kRows]) {
  for (simd::Vec<Acc>& sum : sums) sum = simd::Vec<Acc>{};
  for (int64_t i = 0; i < k; ++i) {
    const simd::Vec<Acc> row = simd::load(b + i * simd::kLanes<Acc>);
    for (int64_t r = 0; r < kRows; ++r) sums[r] += a[i * kRows + r] * row;
  }
}

/// Element (i, j) of a [rows, columns] matrix to to[i * width + j], zeros in the columns that it
/// lacks.
template <class T, class Acc>
void pack(const T* from, int64_t row_stride, int64_t column_stride, int64_t rows, int64_t columns,
          int64_t width, Acc* to) {
  for (int64_t i = 0; i < rows; ++i, to += width) {
    const T* const row = from + i * row_stride;
    for (int64_t j = 0; j < columns; ++j) to[j] = static_cast<Acc>(row[j * column_stride]);
    for (int64_t j = columns; j < width; ++j) to[j] = 0;
  }
}

template <class T, class C>
void multiply_matrices(const GemmCall& call) {
  using Acc = accumulator_t<T>;
  constexpr int64_t kLanes = simd::kLanes<Acc>;
  const int64_t m = call.m, n = call.n, k = call.k;
  const int64_t panels = (n + kLanes - 1) / kLanes;
  Acc* const packed_b = scratch<Acc>(panels * k * kLanes + k * kRows);
  Acc* const packed_a = packed_b + panels * k * kLanes;
  const auto panel_width = [&](int64_t panel) { return std::min(kLanes, n - panel * kLanes); };
  for (int64_t panel = 0; panel < panels; ++panel) {
    pack(call.b.as<const T>() + panel * kLanes * call.b.column_stride, call.b.row_stride,
         call.b.column_stride, k, panel_width(panel), kLanes, packed_b + panel * k * kLanes);
  }
  const Output<C, Acc> output(call);
  simd::Vec<Acc> sums[kRows];
  for (int64_t row = 0; row < m; row += kRows) {
    const int64_t height = std::min(kRows, m - row);
    pack(call.a.as<const T>() + row * call.a.row_stride, call.a.column_stride, call.a.row_stride, k,
         height, kRows, packed_a);
    for (int64_t panel = 0; panel < panels; ++panel) {
      multiply_panels<Acc>(k, packed_a, packed_b + panel * k * kLanes, sums);
      for (int64_t r = 0; r < height; ++r)
        output.store(row + r, panel * kLanes, reinterpret_cast<const Acc*>(&sums[r]),
                     panel_width(panel));
    }
  }
}

/// sums[r][j] = a[r] . x[j] for kCount dense rows of a, `stride` apart, and kColumns dense rows of
/// x, `ldx` apart. How an element is summed depends on none of the others.
template <int kCount, int kColumns, class T, class Acc>
void dot_rows(const T* a, int64_t stride, const Acc* x, int64_t ldx, int64_t k, Acc* sums) {
  constexpr int64_t kLanes = simd::kLanes<Acc>;
  simd::Vec<Acc> even[kCount][kColumns] = {}, odd[kCount][kColumns] = {};
  const auto add = [&](simd::Vec<Acc>(&to)[kCount][kColumns], int64_t i, auto lanes) {
    simd::Vec<Acc> factors[kColumns];
    for (int j = 0; j < kColumns; ++j) factors[j] = simd::load(x + j * ldx + i, lanes);
    for (int r = 0; r < kCount; ++r) {
      const simd::Vec<Acc> row = simd::load(a + r * stride + i, lanes);
      for (int j = 0; j < kColumns; ++j) to[r][j] += row * factors[j];
    }
  };
  // Rows are short, so that the next ones come too late unless they are asked for.
  constexpr int kRowsAhead = 4;
  int64_t i = 0;
  for (; i + 2 * kLanes <= k; i += 2 * kLanes) {
    for (int r = 0; r < kCount; ++r) {
      const char* const next = reinterpret_cast<const char*>(a + (r + kRowsAhead) * stride + i);
      __builtin_prefetch(next, 0, 3);
      if constexpr (2 * kLanes * sizeof(T) > 64) __builtin_prefetch(next + 64, 0, 3);
    }
    add(even, i, simd::Full{});
    add(odd, i + kLanes, simd::Full{});
  }
  if (i + kLanes <= k) {
    add(even, i, simd::Full{});
    i += kLanes;
  }
  if (i < k) add(odd, i, simd::Tail{static_cast<int>(k - i)});
  for (int r = 0; r < kCount; ++r) {
    for (int j = 0; j < kColumns; ++j)
      sums[r * kColumns + j] = simd::sum_lanes<Acc>(even[r][j] + odd[r][j]);
  }
}

/// Few columns, and rows of a that are dense: each row is read once for kColumns columns.
template <int kColumns, class T, class Acc, class Store>
void multiply_dense_rows(const GemmCall& call, const Acc* x, int64_t ldx, const Store& store) {
  constexpr int kCount = kColumns == 1 ? 4 : 2;
  const int64_t stride = call.a.row_stride;
  const T* const a = call.a.as<const T>();
  Acc sums[kCount * kColumns];
  int64_t row = 0;
  for (; row + kCount <= call.m; row += kCount) {
    dot_rows<kCount, kColumns>(a + row * stride, stride, x, ldx, call.k, sums);
    for (int r = 0; r < kCount; ++r) store(row + r, sums + r * kColumns);
  }
  for (; row < call.m; ++row) {
    dot_rows<1, kColumns>(a + row * stride, stride, x, ldx, call.k, sums);
    store(row, sums);
  }
}

/// Few columns, and columns of a that are dense: kRowVectors vectors of rows at a time, which are
/// summed in registers.
template <int kColumns, class T, class Acc, class Store>
void multiply_dense_columns(const GemmCall& call, const Acc* x, int64_t ldx, const Store& store) {
  constexpr int64_t kLanes = simd::kLanes<Acc>;
  constexpr int kRowVectors = 4;
  const T* const a = call.a.as<const T>();
  const auto some = [&]<int kVectors>(int64_t row, auto lanes, int64_t count) {
    simd::Vec<Acc> sums[kColumns][kVectors] = {};
    for (int64_t i = 0; i < call.k; ++i) {
      const T* const from = a + i * call.a.column_stride + row;
      simd::Vec<Acc> rows[kVectors];
      for (int v = 0; v < kVectors; ++v) rows[v] = simd::load(from + v * kLanes, lanes);
      for (int j = 0; j < kColumns; ++j) {
        for (int v = 0; v < kVectors; ++v) sums[j][v] += rows[v] * x[j * ldx + i];
      }
    }
    Acc lines[kColumns][kVectors * kLanes];
    for (int j = 0; j < kColumns; ++j) {
      for (int v = 0; v < kVectors; ++v) simd::store(lines[j] + v * kLanes, sums[j][v]);
    }
    for (int64_t r = 0; r < count; ++r) {
      Acc elements[kColumns];
      for (int j = 0; j < kColumns; ++j) elements[j] = lines[j][r];
      store(row + r, elements);
    }
  };
  constexpr int64_t kStep = kRowVectors * kLanes;
  int64_t row = 0;
  for (; row + kStep <= call.m; row += kStep)
    some.template operator()<kRowVectors>(row, simd::Full{}, kStep);
  for (; row + kLanes <= call.m; row += kLanes)
    some.template operator()<1>(row, simd::Full{}, kLanes);
  if (row < call.m) {
    const int64_t rest = call.m - row;
    some.template operator()<1>(row, simd::Tail{static_cast<int>(rest)}, rest);
  }
}

/// A matrix times one vector, of a that has no dense rows.
template <class T, class C>
void multiply_vector_by_columns(const GemmCall& call) {
  using Acc = accumulator_t<T>;
  const int64_t m = call.m, k = call.k;
  const T* const a = call.a.as<const T>();
  const Output<C, Acc> output(call);
  Acc* const sums = scratch<Acc>(m);
  std::fill_n(sums, m, Acc(0));
  for (int64_t i = 0; i < k; ++i) {
    const T* const from = a + i * call.a.column_stride;
    const Acc factor = static_cast<Acc>(call.b.as<const T>()[i * call.b.row_stride]);
    if (call.a.row_stride == 1) {
      simd::for_each_vector<Acc>(m, [&](int64_t row, auto lanes, auto) {
        simd::store(sums + row,
                    simd::load(sums + row, lanes) + simd::load(from + row, lanes) * factor, lanes);
      });
    } else {
      for (int64_t row = 0; row < m; ++row)
        sums[row] += static_cast<Acc>(from[row * call.a.row_stride]) * factor;
    }
  }
  for (int64_t row = 0; row < m; ++row) output.store(row, 0, sums + row, 1);
}

/// At most kFewColumns columns: c [m, n] = a [m, k] b [k, n] for an a with a dense axis.
template <class T, class C>
void multiply_few_columns(const GemmCall& call) {
  using Acc = accumulator_t<T>;
  constexpr int64_t kLanes = simd::kLanes<Acc>;
  const bool dense_rows = call.a.column_stride == 1;
  const int64_t n = call.n, k = call.k, ldx = (k + kLanes - 1) / kLanes * kLanes;
  Acc* const x = scratch<Acc>(n * ldx);  // the columns of b
  pack(call.b.as<const T>(), call.b.column_stride, call.b.row_stride, n, k, ldx, x);
  const auto columns = [&]<int kColumns>(const GemmCall& part, int64_t first) {
    const auto store = [&, output = Output<C, Acc>(part)](int64_t row, const Acc* sums) {
      output.store(row, first, sums, kColumns);
    };
    if (dense_rows) {
      multiply_dense_rows<kColumns, T>(part, x + first * ldx, ldx, store);
    } else {
      multiply_dense_columns<kColumns, T>(part, x + first * ldx, ldx, store);
    }
  };
  // Rows that stay in the first-level cache for all columns.
  constexpr int64_t kBlock = 16 << 10;
  const int64_t step =
      n <= 4 ? call.m
             : std::max<int64_t>(
                   kBlock / std::max<int64_t>(k, 1) / static_cast<int64_t>(sizeof(T)) & ~3, 4);
  for (int64_t row = 0; row < call.m; row += step) {
    GemmCall part = call;
    part.m = std::min(step, call.m - row);
    part.a = call.a.from(0, row, 0);
    part.c = call.c.from(0, row, 0);
    part.bias = call.bias.from(0, row, 0);
    int64_t first = 0;
    for (; first + 4 <= n; first += 4) columns.template operator()<4>(part, first);
    if (n - first >= 2) {
      columns.template operator()<2>(part, first);
      first += 2;
    }
    if (first < n) columns.template operator()<1>(part, first);
  }
}

template <class T, class C>
void multiply(const GemmCall& call) {
  if (call.n == 1 && call.a.column_stride != 1) {
    multiply_vector_by_columns<T, C>(call);
  } else if (call.n == 1 || has_few_columns(call)) {
    multiply_few_columns<T, C>(call);
  } else {
    multiply_matrices<T, C>(call);
  }
}

}  // namespace

bool has_few_columns(const GemmCall& call) {
  if (call.k == 0) return false;
  constexpr int64_t kFewColumns = 8, kMostLeaps = 128;
  if (call.n > kFewColumns || call.m < call.n) return false;
  // Columns are read piece by piece, from row to row of memory: well for few of them.
  return call.a.column_stride == 1 || (call.a.row_stride == 1 && call.k <= kMostLeaps);
}

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
