#include "weft/attention/kernels/decode_attention.h"

#include <algorithm>
#include <cmath>

#include "weft/attention/kernels/flash_attention.h"
#include "weft/tensor/check.h"
#include "weft/tensor/graph.h"

#include "kernels/attention_arguments.h"

#ifdef WEFT_HAVE_CUDA
#include "kernels/few_queries_cuda.h"
#include "ops/decode_recorder.h"
#endif

namespace weft::attention {
namespace {

constexpr const char* kOp = "decode_attention";

void check_arguments(const Tensor& packed, const QkvSplit& split, const Tensor& keys,
                     const Tensor& values, const Tensor& position, const Tensor& table) {
  WEFT_CHECK(packed.defined() && packed.rank() == 2 && packed.size(1) == split.width(), ShapeError,
             "{}: packed must be [B, {}], got {}", kOp, split.width(), packed);
  WEFT_CHECK(is_floating(packed.dtype()), DTypeError,
             "{}: packed must be of a floating type, got {}", kOp, packed);
  WEFT_CHECK(keys.defined() && keys.rank() == 4 && keys.size(2) >= 1, ShapeError,
             "{}: keys must be [B, Hk, S, D] with S of at least 1, got {}", kOp, keys);
  const int64_t batch = packed.size(0), slots = keys.size(2);
  check_like(kOp, "keys", keys, {batch, split.kv_heads, slots, split.head_dim}, packed.dtype(),
             packed.device());
  check_like(kOp, "values", values, {batch, split.kv_heads, slots, split.dv()}, packed.dtype(),
             packed.device());
  check_like(kOp, "position", position, {1}, DType::i64, packed.device());
  if (!table.defined()) return;
  WEFT_CHECK(table.rank() == 2 && table.size(1) == split.head_dim && table.is_contiguous(),
             ShapeError, "{}: table must be dense [positions, {}], got {}", kOp, split.head_dim,
             table);
  WEFT_CHECK(table.dtype() == statistics_type(packed.dtype()), DTypeError,
             "{}: table must be {} for packed {}, got {}", kOp, statistics_type(packed.dtype()),
             packed, table);
  WEFT_CHECK(table.device() == packed.device(), DeviceError, "{}: table must be on {}, got {}", kOp,
             packed.device(), table);
}

/// By other ops, from a position that the host knows.
Tensor compose(const Tensor& packed, const QkvSplit& split, Tensor& keys, Tensor& values,
               int64_t position, const Tensor& table) {
  WEFT_CHECK(position >= 0, IndexError, "{}: position {} is negative", kOp, position);
  const int64_t batch = packed.size(0), slots = keys.size(2);
  Qkv rows = split_qkv(packed.clone().unsqueeze(1), split);
  if (table.defined()) {
    const RopeOptions rope{.offset = position, .table = table};
    rope_(rows.q, rope);
    rope_(rows.k, rope);
  }
  const int64_t slot = position % slots;
  keys.slice(2, slot, slot + 1).copy_(rows.k.transpose(1, 2));
  values.slice(2, slot, slot + 1).copy_(rows.v.transpose(1, 2));
  const int64_t kept = std::min(position + 1, slots);
  // Positions are in the keys, so that their order does not matter.
  return flash_attention_forward(rows.q, keys.slice(2, 0, kept).transpose(1, 2),
                                 values.slice(2, 0, kept).transpose(1, 2), {.causal = false})
      .o.view({batch, split.heads * split.dv()});
}

}  // namespace

#ifdef WEFT_HAVE_CUDA

bool decodes_at_once(const QkvSplit& split, DType dtype, Device device) {
  constexpr int64_t kMostUnits = 65535;  // of a grid's second axis
  return device.is_cuda() && split.dv() == split.head_dim &&
         few_queries_take(dtype, split.head_dim) && split.heads <= kMostUnits;
}

DecodeScratch::DecodeScratch(int64_t batch, int64_t slots, const QkvSplit& split, DType dtype,
                             Device device) {
  if (!decodes_at_once(split, dtype, device)) return;
  splits_ = decode_splits(batch, split.heads, split.kv_heads, slots, device);
  partials_ = empty({decode_scratch_floats(batch, split.heads, split.head_dim, splits_)},
                    DType::f32, device);
  counters_ = zeros({decode_counters(batch, split.heads, split.kv_heads)}, DType::i32, device);
}

Tensor decode_attention(const Tensor& packed, const QkvSplit& split, Tensor& keys, Tensor& values,
                        const Tensor& position, const Tensor& table, const DecodeScratch& scratch,
                        bool settled) {
  check_arguments(packed, split, keys, values, position, table);
  DecodeRecorder* const recorder = DecodeRecorder::current();
  const auto aligned = [](const Tensor& rows) {
    return reinterpret_cast<uintptr_t>(rows.raw_data()) % 16 == 0 && rows.is_contiguous();
  };
  if (scratch.splits_ == 0 || !decodes_at_once(split, packed.dtype(), packed.device()) ||
      !aligned(keys) || !aligned(values) || packed.stride(1) != 1 || packed.numel() == 0) {
    if (recorder != nullptr) recorder->refuse();
    return compose(packed, split, keys, values, position.item<int64_t>(), table);
  }
  const Tensor o =
      empty({packed.size(0), split.heads * split.dv()}, packed.dtype(), packed.device());
  const double scale = 1 / std::sqrt(static_cast<double>(split.head_dim));
  if (recorder != nullptr) {
    recorder->attention({.packed = packed,
                         .keys = keys,
                         .values = values,
                         .position = position.data<int64_t>(),
                         .table = table,
                         .o = o,
                         .heads = split.heads,
                         .kv_heads = split.kv_heads,
                         .dim = split.head_dim,
                         .scale = scale});
    return o;
  }
  DecodeStepParams params;
  params.dtype = packed.dtype();
  params.batch = packed.size(0);
  params.heads = split.heads;
  params.kv_heads = split.kv_heads;
  params.dim = split.head_dim;
  params.slots = keys.size(2);
  params.packed = packed.raw_data();
  params.packed_stride = packed.stride(0);
  params.keys = view_of(keys.transpose(1, 2));
  params.values = view_of(values.transpose(1, 2));
  params.position = position.data<int64_t>();
  if (table.defined()) {
    params.table = table.data<float>();
    params.table_rows = table.size(0);
  }
  params.o = o.raw_data();
  params.scale = scale;
  params.splits = scratch.splits_;
  params.partials = const_cast<float*>(scratch.partials_.data<float>());
  params.counters =
      reinterpret_cast<unsigned*>(const_cast<int32_t*>(scratch.counters_.data<int32_t>()));
  params.settled = settled;
  for (const Tensor* used : {&table, &scratch.partials_, &scratch.counters_})
    if (used->defined()) keep_for_capture(*used);
  decode_step_cuda(params, current_stream(packed.device()));
  keys.storage()->bump_version();
  values.storage()->bump_version();
  return o;
}

#else

bool decodes_at_once(const QkvSplit& /*split*/, DType /*dtype*/, Device /*device*/) {
  return false;
}

DecodeScratch::DecodeScratch(int64_t /*batch*/, int64_t /*slots*/, const QkvSplit& /*split*/,
                             DType /*dtype*/, Device /*device*/) {}

Tensor decode_attention(const Tensor& packed, const QkvSplit& split, Tensor& keys, Tensor& values,
                        const Tensor& position, const Tensor& table,
                        const DecodeScratch& /*scratch*/, bool /*settled*/) {
  check_arguments(packed, split, keys, values, position, table);
  return compose(packed, split, keys, values, position.item<int64_t>(), table);
}

#endif

}  // namespace weft::attention
