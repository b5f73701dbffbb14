#include "weft/attention/selection_operations.h"

#include <algorithm>
#include <limits>
#include <string>
#include <utility>

#include "weft/tensor/check.h"
#include "weft/tensor/kernel.h"

#include "kernels/op_list.h"
#include "kernels/transpose_lists_kernels.h"
#include "selection_builder.h"

namespace weft::attention {
namespace {

constexpr Kernel<void(const TransposeListsParams&, Stream)> kTransposeLists{
    "transposed", &transpose_lists_cpu, WEFT_CUDA_KERNEL(transpose_lists_cuda)};

struct Lists {
  Tensor offsets, items;
};

/// Lists of `rows` rows as lists of `columns` columns, for each batch and group.
Lists transpose_lists(const SelectionShape& shape, const Tensor& offsets, const Tensor& items,
                      int64_t total, int64_t rows, int64_t columns) {
  const Device device = offsets.device();
  const int64_t matrices = shape.batch * shape.groups;
  Lists out{empty({matrices * columns + 1}, DType::i64, device),
            empty({total}, DType::i32, device)};
  TransposeListsParams params;
  params.matrices = matrices;
  params.rows = rows;
  params.columns = columns;
  params.offsets = offsets.data<int64_t>();
  params.items = items.data<int32_t>();
  params.column_offsets = out.offsets.data<int64_t>();
  params.column_items = out.items.data<int32_t>();
  kTransposeLists(device)(params, current_stream(device));
  return out;
}

void check_device(const char* op, const Selection& selection) {
  WEFT_CHECK(selection.device().is_cpu(), DeviceError, "{}: takes selections on the cpu, got {}",
             op, selection.device());
}

std::string text_of(const SelectionShape& s) {
  return fmt::format(
      "batch {}, groups {}, queries {}, keys {}, position {}, query_tile {}, key_block {}", s.batch,
      s.groups, s.queries, s.keys, s.position, s.query_tile, s.key_block);
}

void check_pair(const char* op, const Selection& a, const Selection& b) {
  WEFT_CHECK(a.shape() == b.shape(), ShapeError,
             "{}: selections must have one shape, got ({}) and ({})", op, text_of(a.shape()),
             text_of(b.shape()));
  check_device(op, a);
  check_device(op, b);
}

/// The lists by their index in the order [batch, group, tile].
class Reader {
 public:
  explicit Reader(const Selection& selection)
      : shape_(selection.shape()),
        tiles_(shape_.tiles()),
        offsets_(selection.offsets().data<int64_t>()),
        blocks_(selection.blocks().data<int32_t>()) {}

  const int32_t* begin(int64_t list) const { return blocks_ + offsets_[list]; }
  const int32_t* end(int64_t list) const { return blocks_ + offsets_[list + 1]; }
  int64_t size(int64_t list) const { return offsets_[list + 1] - offsets_[list]; }
  /// Behind the last block that the last query of the tile sees.
  const int32_t* causal_end(int64_t list) const {
    return std::lower_bound(begin(list), end(list), eligible_blocks(shape_, list % tiles_));
  }

 private:
  const SelectionShape& shape_;
  int64_t tiles_;
  const int64_t* offsets_;
  const int32_t* blocks_;
};

}  // namespace

TransposedSelection::TransposedSelection(const SelectionShape& shape, Tensor offsets, Tensor tiles)
    : shape_(shape), offsets_(std::move(offsets)), tiles_(std::move(tiles)) {}

std::span<const int32_t> TransposedSelection::list(int64_t batch, int64_t group,
                                                   int64_t block) const {
  WEFT_CHECK(batch >= 0 && batch < shape_.batch && group >= 0 && group < shape_.groups &&
                 block >= 0 && block < shape_.blocks(),
             IndexError, "transposed selection: no list ({}, {}, {}) among {} x {} x {}", batch,
             group, block, shape_.batch, shape_.groups, shape_.blocks());
  const auto* const starts = offsets_.data<int64_t>();
  const int64_t index = (batch * shape_.groups + group) * shape_.blocks() + block;
  return {tiles_.data<int32_t>() + starts[index],
          static_cast<size_t>(starts[index + 1] - starts[index])};
}

TransposedSelection transposed(const Selection& selection) {
  const SelectionShape& shape = selection.shape();
  WEFT_CHECK(shape.tiles() <= std::numeric_limits<int32_t>::max(), ShapeError,
             "transposed: takes up to {} query tiles, got {}", std::numeric_limits<int32_t>::max(),
             shape.tiles());
  Lists lists = transpose_lists(shape, selection.offsets(), selection.blocks(), selection.room(),
                                shape.tiles(), shape.blocks());
  return {shape, std::move(lists.offsets), std::move(lists.items)};
}

Selection transposed(const TransposedSelection& readers) {
  const SelectionShape& shape = readers.shape();
  Lists lists = transpose_lists(shape, readers.offsets(), readers.tiles(), readers.tiles().numel(),
                                shape.blocks(), shape.tiles());
  return {shape, std::move(lists.offsets), std::move(lists.items)};
}

Selection unite(const Selection& a, const Selection& b) {
  check_pair("unite", a, b);
  const Reader x(a), y(b);
  return build_selection(
      a.shape(), [&](int64_t i) { return x.size(i) + y.size(i); },
      [&](int64_t i, int32_t* to) {
        return std::set_union(x.begin(i), x.end(i), y.begin(i), y.end(i), to);
      });
}

Selection intersect(const Selection& a, const Selection& b) {
  check_pair("intersect", a, b);
  const Reader x(a), y(b);
  return build_selection(
      a.shape(), [&](int64_t i) { return std::min(x.size(i), y.size(i)); },
      [&](int64_t i, int32_t* to) {
        return std::set_intersection(x.begin(i), x.end(i), y.begin(i), y.end(i), to);
      });
}

Selection subtract(const Selection& a, const Selection& b) {
  check_pair("subtract", a, b);
  const Reader x(a), y(b);
  return build_selection(
      a.shape(), [&](int64_t i) { return x.size(i); },
      [&](int64_t i, int32_t* to) {
        return std::set_difference(x.begin(i), x.end(i), y.begin(i), y.end(i), to);
      });
}

Selection clip_to_causal(const Selection& selection) {
  check_device("clip_to_causal", selection);
  const Reader lists(selection);
  return build_selection(
      selection.shape(), [&](int64_t i) { return lists.size(i); },
      [&](int64_t i, int32_t* to) { return std::copy(lists.begin(i), lists.causal_end(i), to); });
}

Selection with_forced(const Selection& selection, int64_t initial, int64_t local) {
  check_device("with_forced", selection);
  WEFT_CHECK(initial >= 0 && local >= 0, ConfigError,
             "with_forced: initial and local must be at least 0, got {} and {}", initial, local);
  const SelectionShape& shape = selection.shape();
  const Reader lists(selection);
  const int64_t tiles = std::max<int64_t>(shape.tiles(), 1);
  struct Forced {
    int64_t initial_end, local_begin, end;
  };
  const auto forced = [&](int64_t i) {
    const int64_t tile = i % tiles, end = eligible_blocks(shape, tile);
    const int64_t own = (shape.position + shape.first_query(tile)) / shape.key_block;
    const int64_t initial_end = std::min(initial, end);
    const int64_t begin = local == 0 ? end : own < local ? 0 : own - local + 1;
    return Forced{initial_end, std::clamp(begin, initial_end, end), end};
  };
  return build_selection(
      shape,
      [&](int64_t i) {
        const Forced f = forced(i);
        return lists.size(i) + f.initial_end + f.end - f.local_begin;
      },
      [&](int64_t i, int32_t* to) {
        const Forced f = forced(i);
        const auto add = [&](int64_t first, int64_t last) {
          for (; first < last; ++first) *to++ = static_cast<int32_t>(first);
        };
        const auto from = [&](int64_t block) {
          return std::lower_bound(lists.begin(i), lists.end(i), block);
        };
        add(0, f.initial_end);
        to = std::copy(from(f.initial_end), from(f.local_begin), to);
        add(f.local_begin, f.end);
        return std::copy(from(f.end), lists.end(i), to);
      });
}

Tensor count(const Selection& selection) {
  check_device("count", selection);
  const SelectionShape& shape = selection.shape();
  const Reader lists(selection);
  Tensor lengths = empty({shape.batch, shape.groups, shape.tiles()}, DType::i64);
  auto* const to = lengths.data<int64_t>();
  for (int64_t i = 0; i < shape.lists(); ++i) to[i] = lists.size(i);
  return lengths;
}

double density(const Selection& selection) {
  check_device("density", selection);
  const SelectionShape& shape = selection.shape();
  const Reader lists(selection);
  int64_t kept = 0, eligible = 0;
  for (int64_t i = 0; i < shape.lists(); ++i) {
    kept += lists.causal_end(i) - lists.begin(i);
    eligible += eligible_blocks(shape, i % shape.tiles());
  }
  return eligible == 0 ? 0 : static_cast<double>(kept) / static_cast<double>(eligible);
}

int64_t visible_pairs(const Selection& selection) {
  check_device("visible_pairs", selection);
  const SelectionShape& shape = selection.shape();
  const Reader lists(selection);
  int64_t pairs = 0;
  for (int64_t i = 0; i < shape.lists(); ++i) {
    const int64_t tile = i % shape.tiles();
    const int64_t begin = shape.position + shape.first_query(tile);
    const int64_t end = shape.position + shape.last_query(tile);
    for (const int32_t* block = lists.begin(i); block != lists.end(i); ++block) {
      const int64_t first = *block * shape.key_block;
      const int64_t keys = std::min(shape.key_block, shape.keys - first);
      // Queries before first + keys - 1 see the block in part: one key at `first`, one more each.
      const int64_t partly = std::clamp(first + keys - 1, begin, end);
      const int64_t from = std::max(begin, first);
      if (partly > from) pairs += (partly - from) * (from + partly + 1 - 2 * first) / 2;
      pairs += (end - partly) * keys;
    }
  }
  return pairs;
}

SelectionOverlap overlap(const Selection& a, const Selection& b) {
  check_pair("overlap", a, b);
  const SelectionShape& shape = a.shape();
  const Reader x(a), y(b);
  SelectionOverlap result;
  result.jaccard = empty({shape.batch, shape.groups, shape.tiles()}, DType::f64);
  auto* const to = result.jaccard.data<double>();
  double sum = 0;
  for (int64_t i = 0; i < shape.lists(); ++i) {
    int64_t both = 0;
    for (const int32_t *p = x.begin(i), *q = y.begin(i); p != x.end(i) && q != y.end(i);) {
      both += *p == *q;
      const bool next_p = *p <= *q, next_q = *q <= *p;
      p += next_p;
      q += next_q;
    }
    const int64_t either = x.size(i) + y.size(i) - both;
    to[i] = either == 0 ? 1 : static_cast<double>(both) / static_cast<double>(either);
    sum += to[i];
  }
  if (shape.lists() > 0) result.mean = sum / static_cast<double>(shape.lists());
  return result;
}

void list_selection_operations_ops(OpTable& table) {
  table.add(kTransposeLists, {DType::i32});
}

}  // namespace weft::attention
