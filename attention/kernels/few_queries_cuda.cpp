#include "kernels/few_queries_cuda.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <memory>

#include "weft/tensor/check.h"
#include "weft/tensor/tensor.h"

#include "cuda/device_context.h"

namespace weft::attention {
namespace {

/// Parts into which keys are cut at most.
constexpr int64_t kMostSplits = 64;
/// Blocks that a multiprocessor is given.
constexpr int64_t kBlocksOfMultiprocessor = 4;

int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

/// Tiles of query rows that one key head has.
int64_t row_tiles(int64_t rows) {
  return rows <= 4 ? 1 : ceil_div(rows, 8);
}

/// Parts that give every multiprocessor its blocks, each with at least `least_keys`.
int splits_for(int64_t units, int64_t keys, int64_t least_keys, Device device) {
  const int64_t blocks = kBlocksOfMultiprocessor * cuda::device_context(device).multiprocessors();
  const int64_t wanted = std::min(ceil_div(blocks, units), ceil_div(keys, least_keys));
  return static_cast<int>(std::clamp<int64_t>(wanted, 1, kMostSplits));
}

template <class Body>
void dispatch(DType dtype, const Body& body) {
  switch (dtype) {
    case DType::f32:
      return body.template operator()<float>();
    case DType::bf16:
      return body.template operator()<bf16>();
    case DType::f16:
      return body.template operator()<f16>();
    default:
      throw_error<DTypeError>("attention of few queries: takes f32, bf16 or f16, got {}", dtype);
  }
}

/// Makes a view of [batch, rows, heads, dim] one that can be read 16 bytes at a time; gives the
/// copy that takes.
Tensor align(HeadsView& view, const Shape& shape, DType dtype, Device device) {
  const auto size = static_cast<int64_t>(size_of(dtype));
  const int64_t strides = view.batch_stride | view.row_stride | view.head_stride;
  if (reinterpret_cast<uintptr_t>(view.data) % 16 == 0 && strides * size % 16 == 0) return {};
  if (shape.numel() == 0) return {};
  const int64_t last = (shape[0] - 1) * view.batch_stride + (shape[1] - 1) * view.row_stride +
                       (shape[2] - 1) * view.head_stride + shape[3];
  const auto storage =
      std::make_shared<Storage>(view.data, static_cast<size_t>(last * size), device, nullptr);
  const Tensor whole(storage, {shape, {view.batch_stride, view.row_stride, view.head_stride, 1}, 0},
                     dtype);
  Tensor copy = whole.clone();
  view = {copy.raw_data(), copy.stride(0), copy.stride(1), copy.stride(2)};
  return copy;
}

}  // namespace

bool few_queries_take(DType dtype, int64_t dim) {
  if (dtype != DType::f32 && dtype != DType::bf16 && dtype != DType::f16) return false;
  const int64_t width = 16 / static_cast<int64_t>(size_of(dtype));
  return dim >= 1 && dim % width == 0 && dim <= 32 * width;
}

int decode_splits(int64_t batch, int64_t heads, int64_t kv_heads, int64_t slots, Device device) {
  return splits_for(batch * kv_heads * row_tiles(heads / kv_heads), slots, gpu::kLeastKeysOfPart,
                    device);
}

int64_t decode_scratch_floats(int64_t batch, int64_t heads, int64_t dim, int splits) {
  return batch * heads * splits * (dim + 2);
}

int64_t decode_counters(int64_t batch, int64_t heads, int64_t kv_heads) {
  return batch * kv_heads * row_tiles(heads / kv_heads);
}

void decode_step_cuda(const DecodeStepParams& params, Stream stream) {
  dispatch(params.dtype, [&]<class T>() { gpu::run_decode_step<T>(params, stream); });
}

bool few_queries_cuda(const FlashAttentionParams& given, Stream stream) {
  FlashAttentionParams params = given;
  const int64_t rows = params.queries * (params.heads / params.kv_heads);
  constexpr int64_t kMostRows = 16, kMostUnits = 65535;  // of a grid's second and third axis
  constexpr int64_t kMost = std::numeric_limits<int>::max() / 2;
  if (!few_queries_take(params.dtype, params.dim) || params.value_dim != params.dim ||
      rows > kMostRows || params.key_length != 1 || params.key_stride != 1 ||
      params.batch > kMostUnits || params.heads > kMost ||
      params.kv_heads * row_tiles(rows) > kMostUnits)
    return false;
  const Device device = stream.device();
  const Shape keys{params.batch, params.keys, params.kv_heads, params.dim};
  const Tensor q = align(params.q, {params.batch, params.queries, params.heads, params.dim},
                         params.dtype, device);
  const Tensor k = align(params.k, keys, params.dtype, device);
  const Tensor v = align(params.v, keys, params.dtype, device);
  const auto range = params.visible_keys(0, params.queries);
  gpu::FewQueriesPlan plan;
  if (!range.empty()) {
    plan.splits = splits_for(params.batch * params.kv_heads * row_tiles(rows),
                             range.last - range.first, gpu::kLeastKeysOfPart, device);
  }
  Tensor scratch;
  if (plan.splits > 1) {
    const int64_t parts = params.batch * params.heads * params.queries * plan.splits;
    scratch = empty({parts * (params.dim + 2)}, DType::f32, device);
    plan.sums = scratch.data<float>();
    plan.statistics = plan.sums + parts * params.dim;
  }
  dispatch(params.dtype, [&]<class T>() { gpu::run_few_queries<T>(params, plan, stream); });
  return true;
}

}  // namespace weft::attention
