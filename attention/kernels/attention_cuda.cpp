// Launchers of full, sliding-window, selected and split attention on CUDA devices.
#include "kernels/attention_cuda.h"

#include <algorithm>
#include <cstdint>
#include <limits>

#include "weft/tensor/check.h"
#include "weft/tensor/dispatch.h"
#include "weft/tensor/tensor.h"

#include "kernels/few_queries_cuda.h"
#include "kernels/transpose_lists_kernels.h"

namespace weft::attention {
namespace {

using gpu::BackwardProblem;
using gpu::ForwardPlan;
using gpu::Problem;
using gpu::rows_view;

/// Keys of a part, where the keys of few rows are cut; a multiple of the keys of any tile.
constexpr int64_t kPartKeys = 256;
/// More parts than these become longer instead.
constexpr int64_t kMostParts = 256;

int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

int checked_int(const char* op, const char* name, int64_t value) {
  WEFT_CHECK(value < std::numeric_limits<int>::max() / 2, ShapeError,
             "{}: takes fewer than {} {} on a CUDA device, got {}", op,
             std::numeric_limits<int>::max() / 2, name, value);
  return static_cast<int>(value);
}

Problem make_problem(const char* op, const FlashAttentionParams& p) {
  Problem problem;
  problem.q = rows_view(p.q, p.dtype, p.dim);
  problem.k = rows_view(p.k, p.dtype, p.dim);
  problem.v = rows_view(p.v, p.dtype, p.value_dim);
  problem.o = rows_view(p.o, p.dtype, p.value_dim);
  problem.lse = p.lse;
  problem.batch = checked_int(op, "batch entries", p.batch);
  problem.queries = checked_int(op, "queries", p.queries);
  problem.keys = checked_int(op, "keys", p.keys);
  problem.heads = checked_int(op, "heads", p.heads);
  problem.kv_heads = checked_int(op, "key heads", p.kv_heads);
  problem.group = problem.heads / problem.kv_heads;
  checked_int(op, "query rows of a key head", p.queries * problem.group);
  problem.dim = checked_int(op, "dims of a head", p.dim);
  problem.value_dim = checked_int(op, "dims of a value", p.value_dim);
  problem.scale = p.scale;
  problem.causal = p.causal;
  problem.window = p.window;
  problem.position = p.position;
  problem.key_length = p.key_length;
  problem.key_stride = p.key_stride;
  return problem;
}

void add_selection(const char* op, Problem& problem, const FlashAttentionParams& p,
                   const SelectionView& selection) {
  const SelectionShape& shape = selection.shape;
  problem.selected = true;
  problem.offsets = selection.offsets;
  problem.blocks = selection.blocks;
  problem.heads_per_list = static_cast<int>(p.kv_heads / shape.groups);
  problem.list_groups = static_cast<int>(shape.groups);
  problem.list_tiles = checked_int(op, "query tiles", shape.tiles());
  // A block that is longer than all keys has no more of them.
  problem.key_block = static_cast<int>(std::min(shape.key_block, std::max<int64_t>(p.keys, 1)));
  problem.query_tile = shape.query_tile;
}

DType sum_type(DType dtype) {
  return dtype == DType::f64 ? DType::f64 : DType::f32;
}

/// Places of keys that a unit reads at most.
int64_t most_places(const SplitAttentionParams& p, const Problem& problem) {
  const auto range = p.visible_keys(0, p.queries);
  if (!p.selected) {
    return range.empty() ? 0 : range.last - range.first / kPartKeys * kPartKeys;
  }
  return std::min(p.selection.shape.blocks(), p.selection.entries) * problem.key_block;
}

void run_forward(const char* op, DType dtype, const Problem& problem, const ForwardPlan& plan,
                 Stream stream) {
  dispatch_floating(dtype, op, [&]<class T>() { gpu::run_forward<T>(op, problem, plan, stream); });
}

void run_split(const char* op, const SplitAttentionParams& p, Stream stream) {
  Problem problem = make_problem(op, p);
  if (p.second_dim > 0) {
    problem.q_second = rows_view(p.q_second, p.dtype, p.second_dim);
    problem.k_second = rows_view(p.k_second, p.dtype, p.second_dim);
    problem.second_dim = checked_int(op, "further dims", p.second_dim);
  }
  problem.shares_values = p.k.data == p.v.data && p.dim == p.value_dim &&
                          p.k.row_stride == p.v.row_stride && p.k.head_stride == p.v.head_stride &&
                          p.k.batch_stride == p.v.batch_stride;
  if (p.selected) add_selection(op, problem, p, p.selection);

  const int64_t places = most_places(p, problem);
  int64_t part_keys = kPartKeys;
  while (ceil_div(places, part_keys) > kMostParts) part_keys *= 2;
  const int64_t parts = ceil_div(places + part_keys - kPartKeys, part_keys);
  if (parts <= 1) return run_forward(op, p.dtype, problem, {}, stream);
  const int64_t rows = p.batch * p.heads * p.queries;
  const DType type = sum_type(p.dtype);
  const Tensor sums = empty({rows, parts, p.value_dim}, type, stream.device());
  const Tensor statistics = empty({rows, parts, 2}, type, stream.device());
  run_forward(op, p.dtype, problem,
              {.parts = static_cast<int>(parts),
               .part_keys = static_cast<int>(part_keys),
               .partial_sums = sums.raw_data(),
               .partial_statistics = statistics.raw_data()},
              stream);
}

BackwardProblem make_backward(const char* op, const FlashAttentionBackwardParams& p) {
  BackwardProblem problem;
  static_cast<Problem&>(problem) = make_problem(op, p);
  problem.dout = rows_view(p.dout, p.dtype, p.value_dim);
  problem.dq = rows_view(p.dq, p.dtype, p.dim);
  problem.dk = rows_view(p.dk, p.dtype, p.dim);
  problem.dv = rows_view(p.dv, p.dtype, p.value_dim);
  return problem;
}

void run_backward(const char* op, DType dtype, BackwardProblem& problem, Stream stream) {
  const Tensor delta =
      empty({problem.batch, problem.heads, problem.queries}, sum_type(dtype), stream.device());
  problem.delta = delta.raw_data();
  dispatch_floating(dtype, op, [&]<class T>() { gpu::run_backward<T>(op, problem, stream); });
}

}  // namespace

void flash_attention_forward_cuda(const FlashAttentionParams& params, Stream stream) {
  constexpr const char* kOp = "flash_attention";
  if (has_few_rows(params)) {
    if (few_queries_cuda(params, stream)) return;
    SplitAttentionParams split;
    static_cast<FlashAttentionParams&>(split) = params;
    return run_split(kOp, split, stream);
  }
  run_forward(kOp, params.dtype, make_problem(kOp, params), {}, stream);
}

void selected_attention_forward_cuda(const SelectedAttentionParams& params, Stream stream) {
  constexpr const char* kOp = "selected_attention";
  if (has_few_rows(params)) {
    SplitAttentionParams split;
    static_cast<FlashAttentionParams&>(split) = params;
    split.selected = true;
    split.selection = params.selection;
    return run_split(kOp, split, stream);
  }
  Problem problem = make_problem(kOp, params);
  add_selection(kOp, problem, params, params.selection);
  run_forward(kOp, params.dtype, problem, {}, stream);
}

void split_attention_forward_cuda(const SplitAttentionParams& params, Stream stream) {
  run_split("latent_attention", params, stream);
}

void flash_attention_backward_cuda(const FlashAttentionBackwardParams& params, Stream stream) {
  constexpr const char* kOp = "flash_attention_backward";
  BackwardProblem problem = make_backward(kOp, params);
  run_backward(kOp, params.dtype, problem, stream);
}

void selected_attention_backward_cuda(const SelectedAttentionBackwardParams& params,
                                      Stream stream) {
  constexpr const char* kOp = "selected_attention_backward";
  const SelectionView& selection = params.selection;
  const SelectionShape& shape = selection.shape;
  BackwardProblem problem = make_backward(kOp, params);
  add_selection(kOp, problem, params, selection);
  const int64_t matrices = shape.batch * shape.groups;
  Tensor offsets = empty({matrices * shape.blocks() + 1}, DType::i64, stream.device());
  Tensor readers = empty({selection.entries}, DType::i32, stream.device());
  TransposeListsParams lists;
  lists.matrices = matrices;
  lists.rows = shape.tiles();
  lists.columns = shape.blocks();
  lists.offsets = selection.offsets;
  lists.items = selection.blocks;
  lists.column_offsets = offsets.data<int64_t>();
  lists.column_items = readers.data<int32_t>();
  transpose_lists_cuda(lists, stream);
  problem.reader_offsets = lists.column_offsets;
  problem.readers = lists.column_items;
  run_backward(kOp, params.dtype, problem, stream);
}

}  // namespace weft::attention
