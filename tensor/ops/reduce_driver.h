#pragma once

// Walks a tensor for the reducers of reduce_cpu.cpp. A reducer turns blocks of up to kReduceBlock
// elements into totals and combines totals:
//   using Element = ...;  // what it reads: double, float or int64_t
//   using Total = ...;    // what it keeps across blocks
//   using Result = ...;   // what it writes
//   Total identity() const;
//   Total block(const Element* x, int64_t count, int64_t first) const;  // first: position of x[0]
//   Total combine(const Total& earlier, const Total& later) const;
//   Result finish(const Total& total, int64_t count) const;
// Reducers that can also work on many columns at once add
//   static void add_rows(Element* lanes, const Element* const* rows, int64_t width);  // 4 rows
//   static Element lane_identity();
// Work is cut into pieces by shape alone and the pieces' totals are combined in order, so that
// results do not depend on the number of threads.
#include <algorithm>
#include <concepts>
#include <vector>

#include "weft/tensor/dispatch.h"
#include "weft/tensor/parallel.h"
#include "weft/tensor/tensor.h"

#include "ops/strided.h"

namespace weft::reduction {

inline constexpr int64_t kReduceBlock = 1024;
inline constexpr int64_t kPieceElements = 65536;
inline constexpr int64_t kLeafRows = 32;
inline constexpr int64_t kTileRows = 256;
inline constexpr int64_t kColumnUnits = 64;

/// Some axes of a tensor, merged where they are adjacent in memory.
struct AxisGroup {
  Shape shape;
  Strides strides;

  void append(int64_t size, int64_t stride) {
    if (size == 1) return;
    const int last = shape.rank() - 1;
    if (last >= 0 && strides[last] == stride * size) {
      shape[last] *= size;
      strides[last] = stride;
    } else {
      shape.push_back(size);
      strides.push_back(stride);
    }
  }

  int64_t offset(int64_t position) const {
    int64_t result = 0;
    for (int axis = shape.rank() - 1; axis >= 0; --axis) {
      result += position % shape[axis] * strides[axis];
      position /= shape[axis];
    }
    return result;
  }
};

/// Offsets of consecutive positions of a group.
class AxisWalk {
 public:
  AxisWalk(const AxisGroup& group, int64_t position)
      : group_(group), index_(group.shape), offset_(group.offset(position)) {
    for (int axis = group.shape.rank() - 1; axis >= 0; --axis) {
      index_[axis] = position % group.shape[axis];
      position /= group.shape[axis];
    }
  }

  int64_t offset() const { return offset_; }
  void next() {
    for (int axis = group_.shape.rank() - 1; axis >= 0; --axis) {
      offset_ += group_.strides[axis];
      if (++index_[axis] < group_.shape[axis]) return;
      offset_ -= group_.shape[axis] * group_.strides[axis];
      index_[axis] = 0;
    }
  }

 private:
  const AxisGroup& group_;
  Shape index_;
  int64_t offset_;
};

struct ReduceLayout {
  AxisGroup kept;
  AxisGroup reduced;  // rank at least 1

  ReduceLayout(const Tensor& x, unsigned mask) {
    std::vector<int> reduced_axes;
    for (int axis = 0; axis < x.rank(); ++axis) {
      if (mask >> axis & 1u) {
        reduced_axes.push_back(axis);
      } else {
        kept.append(x.shape()[axis], x.strides()[axis]);
      }
    }
    // Any order of the reduced axes will do (argmax has only one): the one with the longest runs.
    std::stable_sort(reduced_axes.begin(), reduced_axes.end(),
                     [&](int a, int b) { return x.strides()[a] > x.strides()[b]; });
    for (int axis : reduced_axes) reduced.append(x.shape()[axis], x.strides()[axis]);
    if (reduced.shape.rank() == 0) {
      reduced.shape.push_back(1);
      reduced.strides.push_back(1);
    }
  }
};

/// The elements of a tensor of any type, read as Element.
template <class Element>
class Source {
 public:
  explicit Source(const Tensor& x) {
    dispatch_all(x.dtype(), "reduce", [&]<class T>() {
      base_ = x.data<T>();
      load_ = &load_typed<T>;
      if constexpr (std::is_same_v<T, Element>) direct_ = x.data<T>();
    });
  }

  /// `count` elements, a stride apart: where they lie, or loaded into `buffer`.
  const Element* read(int64_t offset, int64_t stride, int64_t count, Element* buffer) const {
    if (direct_ != nullptr && stride == 1) return direct_ + offset;
    load_(base_, offset, stride, count, buffer);
    return buffer;
  }
  void load(int64_t offset, int64_t stride, int64_t count, Element* buffer) const {
    load_(base_, offset, stride, count, buffer);
  }

 private:
  template <class T>
  static void load_typed(const void* base, int64_t offset, int64_t stride, int64_t count,
                         Element* to) {
    const T* from = static_cast<const T*>(base) + offset;
    if (stride == 1) {
      for (int64_t i = 0; i < count; ++i) to[i] = static_cast<Element>(from[i]);
    } else {
      for (int64_t i = 0; i < count; ++i) to[i] = static_cast<Element>(from[i * stride]);
    }
  }

  const void* base_ = nullptr;
  const Element* direct_ = nullptr;
  void (*load_)(const void*, int64_t, int64_t, int64_t, Element*) = nullptr;
};

/// Total of the elements begin..end-1 of the reduced axes, for the output whose elements start at
/// `base`.
template <class Reducer>
typename Reducer::Total reduce_span(const Reducer& reducer,
                                    const Source<typename Reducer::Element>& source,
                                    const AxisGroup& reduced, int64_t base, int64_t begin,
                                    int64_t end) {
  alignas(64) typename Reducer::Element buffer[kReduceBlock];
  const int last = reduced.shape.rank() - 1;
  const int64_t run = reduced.shape[last];
  const int64_t stride = reduced.strides[last];
  typename Reducer::Total total = reducer.identity();
  for (int64_t position = begin; position < end;) {
    const int64_t count = std::min(end - position, kReduceBlock);
    const int64_t start = position % run;
    const int64_t first = base + reduced.offset(position);
    if (start + count <= run) {
      total = reducer.combine(
          total, reducer.block(source.read(first, stride, count, buffer), count, position));
      position += count;
    } else if (run - start >= kReduceBlock / 4) {  // up to the end of the run
      const int64_t rest = run - start;
      total = reducer.combine(
          total, reducer.block(source.read(first, stride, rest, buffer), rest, position));
      position += rest;
    } else {  // gathered from several runs
      int64_t filled = 0;
      while (filled < count) {
        const int64_t from = position + filled;
        const int64_t length = std::min(count - filled, run - from % run);
        source.load(base + reduced.offset(from), stride, length, buffer + filled);
        filled += length;
      }
      total = reducer.combine(total, reducer.block(buffer, count, position));
      position += count;
    }
  }
  return total;
}

/// One output at a time; few long ones are cut into pieces.
template <class Reducer>
void reduce_rows(const Reducer& reducer, const ReduceLayout& layout,
                 const Source<typename Reducer::Element>& source, typename Reducer::Result* out) {
  using Total = typename Reducer::Total;
  const AxisGroup& reduced = layout.reduced;
  const int64_t outputs = layout.kept.shape.numel();
  const int64_t count = reduced.shape.numel();
  const int64_t pieces =
      outputs >= 64 ? 1 : std::max<int64_t>(1, (count + kPieceElements - 1) / kPieceElements);
  const int64_t piece = (count + pieces - 1) / pieces;
  const int64_t grain = std::max<int64_t>(1, kElementwiseGrain / std::max<int64_t>(piece, 16));
  if (pieces == 1) {
    const bool one_block = reduced.shape.rank() == 1 && count <= kReduceBlock && count > 0;
    parallel_for(0, outputs, grain, [&](int64_t begin, int64_t end) {
      alignas(64) typename Reducer::Element buffer[kReduceBlock];
      AxisWalk walk(layout.kept, begin);
      for (int64_t o = begin; o < end; ++o, walk.next()) {
        const Total total =
            one_block ? reducer.block(source.read(walk.offset(), reduced.strides[0], count, buffer),
                                      count, 0)
                      : reduce_span(reducer, source, reduced, walk.offset(), 0, count);
        out[o] = reducer.finish(total, count);
      }
    });
    return;
  }
  std::vector<Total> totals(static_cast<size_t>(outputs * pieces), reducer.identity());
  parallel_for(0, outputs * pieces, grain, [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t from = unit % pieces * piece;
      totals[static_cast<size_t>(unit)] =
          reduce_span(reducer, source, reduced, layout.kept.offset(unit / pieces), from,
                      std::min(from + piece, count));
    }
  });
  for (int64_t o = 0; o < outputs; ++o) {
    Total total = reducer.identity();
    for (int64_t i = 0; i < pieces; ++i)
      total = reducer.combine(total, totals[static_cast<size_t>(o * pieces + i)]);
    out[o] = reducer.finish(total, count);
  }
}

template <class Reducer>
concept ColumnReducer = requires {
  Reducer::lane_identity();
};

/// Columns whose totals are made together.
template <class Reducer>
inline constexpr int64_t kColumnBlock = ColumnReducer<Reducer> ? 512 : 32;

/// Adds rows begin..end-1 of the reduced axes to the totals of `width` neighbouring columns, the
/// first of which starts at `base`: four rows at a time, all columns at once.
template <ColumnReducer Reducer>
void reduce_column_span(const Reducer& reducer, const Source<typename Reducer::Element>& source,
                        const AxisGroup& reduced, int64_t base, int64_t begin, int64_t end,
                        int64_t width, typename Reducer::Total* totals) {
  using Element = typename Reducer::Element;
  constexpr int kRows = 4;
  alignas(64) Element lanes[kColumnBlock<Reducer>];
  alignas(64) Element buffers[kRows][kColumnBlock<Reducer>];
  alignas(64) Element neutral[kColumnBlock<Reducer>];
  std::fill_n(neutral, width, Reducer::lane_identity());
  AxisWalk walk(reduced, begin);
  for (int64_t leaf = begin; leaf < end; leaf += kLeafRows) {
    std::fill_n(lanes, width, Reducer::lane_identity());
    const int64_t leaf_end = std::min(leaf + kLeafRows, end);
    for (int64_t row = leaf; row < leaf_end; row += kRows) {
      const Element* rows[kRows] = {neutral, neutral, neutral, neutral};
      for (int i = 0; i < kRows && row + i < leaf_end; ++i, walk.next())
        rows[i] = source.read(base + walk.offset(), 1, width, buffers[i]);
      Reducer::add_rows(lanes, rows, width);
    }
    for (int64_t i = 0; i < width; ++i)
      totals[i] = reducer.combine(totals[i], typename Reducer::Total(lanes[i]));
  }
}

/// The same for other reducers: blocks are turned round, so that columns become dense.
template <class Reducer>
void reduce_column_span(const Reducer& reducer, const Source<typename Reducer::Element>& source,
                        const AxisGroup& reduced, int64_t base, int64_t begin, int64_t end,
                        int64_t width, typename Reducer::Total* totals) {
  using Element = typename Reducer::Element;
  alignas(64) Element tile[kColumnBlock<Reducer>][kTileRows];
  alignas(64) Element buffer[kColumnBlock<Reducer>];
  AxisWalk walk(reduced, begin);
  for (int64_t first = begin; first < end; first += kTileRows) {
    const int64_t rows = std::min(kTileRows, end - first);
    for (int64_t row = 0; row < rows; ++row, walk.next()) {
      const Element* const from = source.read(base + walk.offset(), 1, width, buffer);
      for (int64_t i = 0; i < width; ++i) tile[i][row] = from[i];
    }
    for (int64_t i = 0; i < width; ++i)
      totals[i] = reducer.combine(totals[i], reducer.block(tile[i], rows, first));
  }
}

/// Neighbouring outputs together, where they lie side by side in memory: [N, C] -> [C].
template <class Reducer>
void reduce_columns(const Reducer& reducer, const ReduceLayout& layout,
                    const Source<typename Reducer::Element>& source,
                    typename Reducer::Result* out) {
  using Total = typename Reducer::Total;
  constexpr int64_t block = kColumnBlock<Reducer>;
  const int64_t columns = layout.kept.shape.back();
  const int64_t outputs = layout.kept.shape.numel();
  const int64_t count = layout.reduced.shape.numel();
  const int64_t blocks = (columns + block - 1) / block;
  const int64_t units = outputs / columns * blocks;
  const int64_t pieces =
      std::clamp<int64_t>(count / (4 * kLeafRows), 1, std::max<int64_t>(1, kColumnUnits / units));
  const int64_t piece = (count + pieces - 1) / pieces;
  std::vector<Total> totals(static_cast<size_t>(pieces * outputs), reducer.identity());
  const int64_t unit_cost = piece * std::min(columns, block);
  parallel_for(0, units * pieces, std::max<int64_t>(1, kElementwiseGrain / unit_cost),
               [&](int64_t begin, int64_t end) {
                 for (int64_t unit = begin; unit < end; ++unit) {
                   const int64_t p = unit / units;
                   const int64_t group = unit % units / blocks;
                   const int64_t column = unit % blocks * block;
                   const int64_t output = group * columns + column;
                   reduce_column_span(reducer, source, layout.reduced, layout.kept.offset(output),
                                      p * piece, std::min((p + 1) * piece, count),
                                      std::min(block, columns - column),
                                      totals.data() + p * outputs + output);
                 }
               });
  for (int64_t o = 0; o < outputs; ++o) {
    Total total = totals[static_cast<size_t>(o)];
    for (int64_t p = 1; p < pieces; ++p)
      total = reducer.combine(total, totals[static_cast<size_t>(p * outputs + o)]);
    out[o] = reducer.finish(total, count);
  }
}

template <class Reducer>
void reduce_into(const Reducer& reducer, const Tensor& x, unsigned mask, Tensor& out) {
  using Result = typename Reducer::Result;
  if (out.dtype() != dtype_of<Result>) {
    Tensor exact = empty(out.shape(), dtype_of<Result>);
    reduce_into(reducer, x, mask, exact);
    out.copy_(exact);
    return;
  }
  const ReduceLayout layout(x, mask);
  const Source<typename Reducer::Element> source(x);
  Result* const results = out.data<Result>();
  const bool side_by_side = layout.kept.shape.rank() > 0 && layout.kept.strides.back() == 1;
  if (side_by_side && layout.reduced.strides.back() != 1 && layout.reduced.shape.numel() > 0) {
    reduce_columns(reducer, layout, source, results);
  } else {
    reduce_rows(reducer, layout, source, results);
  }
}

}  // namespace weft::reduction
