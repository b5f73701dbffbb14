#include "weft/attention/kernels/block_selection.h"

#include <cmath>
#include <utility>

#include "weft/tensor/check.h"
#include "weft/tensor/kernel.h"

#include "kernels/attention_arguments.h"
#include "kernels/block_selection_params.h"
#include "kernels/op_list.h"

namespace weft::attention {
namespace {

constexpr Kernel<void(const BlockSelectionParams&, Stream)> kSelectBlocks{
    "select_blocks", &select_blocks_cpu, WEFT_CUDA_KERNEL(select_blocks_cuda)};
constexpr const char* kOp = kSelectBlocks.op;

void check_inputs(const Tensor& q, const Tensor& k, const Tensor& lse) {
  WEFT_CHECK(q.defined() && q.rank() == 4, ShapeError, "{}: q must be [B, T, H, D], got {}", kOp,
             q);
  WEFT_CHECK(k.defined() && k.rank() == 4, ShapeError, "{}: k must be [B, Nc, G, D], got {}", kOp,
             k);
  WEFT_CHECK(k.size(0) == q.size(0), ShapeError, "{}: batch sizes differ: q {}, k {}", kOp, q, k);
  WEFT_CHECK(k.size(3) == q.size(3) && q.size(3) >= 1, ShapeError,
             "{}: q and k must have one head dim of at least 1: q {}, k {}", kOp, q, k);
  WEFT_CHECK(k.size(2) >= 1 && q.size(2) >= 1 && q.size(2) % k.size(2) == 0, ShapeError,
             "{}: the {} query heads must be a multiple of the {} key heads: q {}, k {}", kOp,
             q.size(2), k.size(2), q, k);
  const Shape rows{q.size(0), q.size(2), q.size(1)};
  WEFT_CHECK(lse.defined() && lse.shape() == rows, ShapeError, "{}: lse must be {}, got {}", kOp,
             rows, lse);
  WEFT_CHECK(is_floating(q.dtype()), DTypeError, "{}: takes f64, f32, bf16 or f16, got q {}", kOp,
             q);
  WEFT_CHECK(k.dtype() == q.dtype(), DTypeError, "{}: q and k must have one type, got q {}, k {}",
             kOp, q, k);
  const DType sum_type = statistics_type(q.dtype());
  WEFT_CHECK(lse.dtype() == sum_type, DTypeError, "{}: lse must be {} for q {}, got {}", kOp,
             sum_type, q, lse);
  WEFT_CHECK(k.device() == q.device() && lse.device() == q.device(), DeviceError,
             "{}: q, k and lse must be on one device, got q {}, k {}, lse {}", kOp, q, k, lse);
}

void check_inherited(const SelectionShape& shape, const Selection* inherited, Device device) {
  WEFT_CHECK(inherited != nullptr, ConfigError,
             "{}: position {} is inside a run of {} queries, whose list must be inherited", kOp,
             shape.position, shape.query_tile);
  const SelectionShape& from = inherited->shape();
  WEFT_CHECK(from.batch == shape.batch && from.groups == shape.groups, ShapeError,
             "{}: inherited lists are of batch {} and {} groups, must be of batch {} and {} groups",
             kOp, from.batch, from.groups, shape.batch, shape.groups);
  WEFT_CHECK(from.query_tile == shape.query_tile && from.key_block == shape.key_block, ConfigError,
             "{}: inherited lists have query_tile {} and key_block {}, must have {} and {}", kOp,
             from.query_tile, from.key_block, shape.query_tile, shape.key_block);
  WEFT_CHECK(from.queries > 0 && from.position + from.queries == shape.position &&
                 from.blocks() <= shape.blocks(),
             ConfigError,
             "{}: inherited lists must end at position {} and know at most {} blocks, got the {} "
             "queries from {} on and {} blocks",
             kOp, shape.position, shape.blocks(), from.queries, from.position, from.blocks());
  WEFT_CHECK(inherited->device() == device, DeviceError, "{}: inherited lists are on {}, q on {}",
             kOp, inherited->device(), device);
}

struct Lists {
  Tensor offsets, blocks;
};

/// Room for the lists of a call whose first tile goes on with the last one of `inherited`, and that
/// tile's lists. Their lengths are read on the CPU.
Lists with_inherited(const BlockSelectionParams& params, const SelectionShape& shape,
                     const Selection& inherited) {
  const Device device = inherited.device();
  const Tensor from_offsets = inherited.offsets().to(kCpu);
  const auto* const from = from_offsets.data<int64_t>();
  const auto last_list = [&](int64_t pair) { return (pair + 1) * inherited.shape().tiles() - 1; };
  const int64_t pairs = shape.batch * shape.groups, tiles = shape.tiles();
  Tensor offsets = empty({shape.lists() + 1}, DType::i64);
  auto* const starts = offsets.data<int64_t>();
  starts[0] = 0;
  for (int64_t pair = 0; pair < pairs; ++pair) {
    const int64_t begin = starts[pair * tiles];
    const int64_t length = from[last_list(pair) + 1] - from[last_list(pair)];
    for (int64_t tile = 1; tile <= tiles; ++tile)
      starts[pair * tiles + tile] =
          begin + length + params.blocks_before(tile) - params.blocks_before(1);
  }
  Tensor blocks = empty({starts[shape.lists()]}, DType::i32, device);
  for (int64_t pair = 0; pair < pairs; ++pair) {
    const int64_t list = last_list(pair);
    blocks.slice(0, starts[pair * tiles], starts[pair * tiles + 1])
        .copy_(inherited.blocks().slice(0, from[list], from[list + 1]));
  }
  return {offsets.to(device), std::move(blocks)};
}

}  // namespace

void validate(const BlockSelectionOptions& o) {
  const auto at_least = [](const char* name, int64_t value, int64_t least) {
    WEFT_CHECK(value >= least, ConfigError, "{}: {} must be at least {}, got {}", kOp, name, least,
               value);
  };
  at_least("compression_block", o.compression_block, 1);
  at_least("compression_stride", o.compression_stride, 1);
  at_least("key_block", o.key_block, 1);
  at_least("count", o.count, 1);
  at_least("initial", o.initial, 0);
  at_least("local", o.local, 1);
  at_least("query_tile", o.query_tile, 1);
  const auto divides = [](const char* name, int64_t value, const char* of, int64_t multiple) {
    WEFT_CHECK(multiple % value == 0, ConfigError, "{}: {} must divide {}, got {} and {}", kOp,
               name, of, value, multiple);
  };
  divides("compression_stride", o.compression_stride, "compression_block", o.compression_block);
  divides("compression_stride", o.compression_stride, "key_block", o.key_block);
  divides("query_tile", o.query_tile, "key_block", o.key_block);
  WEFT_CHECK(o.compression_block <= o.key_block, ConfigError,
             "{}: compression_block must be at most key_block, got {} and {}", kOp,
             o.compression_block, o.key_block);
  WEFT_CHECK(o.count - o.initial >= o.local, ConfigError,
             "{}: count must be at least initial + local, got {} for {} + {}", kOp, o.count,
             o.initial, o.local);
  WEFT_CHECK(!o.scale.has_value() || (std::isfinite(*o.scale) && *o.scale > 0), ConfigError,
             "{}: scale must be finite and above 0, got {}", kOp, *o.scale);
}

Selection select_blocks(const Tensor& q, const Tensor& k, const Tensor& lse, int64_t position,
                        int64_t keys, const BlockSelectionOptions& options,
                        const Selection* inherited) {
  validate(options);
  check_inputs(q, k, lse);
  const int64_t queries = q.size(1);
  WEFT_CHECK(position >= 0 && position <= keys - queries, ConfigError,
             "{}: the {} queries from position {} on must be among the {} keys", kOp, queries,
             position, keys);
  const Device device = q.device();
  const SelectionShape shape{.batch = q.size(0),
                             .groups = k.size(2),
                             .queries = queries,
                             .keys = keys,
                             .position = position,
                             .query_tile = options.query_tile,
                             .key_block = options.key_block};
  const int64_t tiles = shape.tiles();

  BlockSelectionParams params = selection_params(kOp, shape, options);
  params.dtype = q.dtype();
  params.heads = q.size(2);
  params.dim = q.size(3);
  params.compressed = k.size(1);
  if (!options.scale.has_value()) params.scale = 1 / std::sqrt(static_cast<double>(params.dim));

  // The lengths of the lists are known beforehand: as many blocks as there are, up to `count`.
  const bool inherits = tiles > 0 && position % options.query_tile != 0;
  Lists lists;
  if (inherits) {
    check_inherited(shape, inherited, device);
    params.first_tile = 1;
    lists = with_inherited(params, shape, *inherited);
  } else {
    const int64_t total = shape.batch * shape.groups * params.blocks_before(tiles);
    lists = {shape.lists() == 0 ? zeros({1}, DType::i64, device)
                                : empty({shape.lists() + 1}, DType::i64, device),
             empty({total}, DType::i32, device)};
  }
  if (shape.batch > 0 && tiles > params.first_tile) {
    const Tensor q_rows = with_dense_rows(q), k_rows = with_dense_rows(k);
    const Tensor lse_dense = lse.contiguous();
    params.q = view_of(q_rows);
    params.k = view_of(k_rows);
    params.lse = lse_dense.raw_data();
    params.offsets = lists.offsets.data<int64_t>();
    params.blocks = lists.blocks.data<int32_t>();
    kSelectBlocks(device)(params, current_stream(device));
  }
  return {shape, std::move(lists.offsets), std::move(lists.blocks)};
}

void list_block_selection_ops(OpTable& table) {
  table.add(kSelectBlocks, kFloatingTypes);
}

}  // namespace weft::attention
