#include "weft/attention/selection_operations.h"

#include <limits>
#include <utility>

#include "weft/tensor/check.h"
#include "weft/tensor/kernel.h"

#include "kernels/op_list.h"
#include "kernels/transpose_lists_kernels.h"

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
  Lists lists = transpose_lists(shape, selection.offsets(), selection.blocks(), selection.total(),
                                shape.tiles(), shape.blocks());
  return {shape, std::move(lists.offsets), std::move(lists.items)};
}

Selection transposed(const TransposedSelection& readers) {
  const SelectionShape& shape = readers.shape();
  Lists lists = transpose_lists(shape, readers.offsets(), readers.tiles(), readers.tiles().numel(),
                                shape.blocks(), shape.tiles());
  return {shape, std::move(lists.offsets), std::move(lists.items)};
}

void list_selection_operations_ops(OpTable& table) {
  table.add(kTransposeLists, {DType::i32});
}

}  // namespace weft::attention
