#include "kernels/cudnn_attention.h"

#include <bit>
#include <cstdint>
#include <limits>
#include <map>
#include <mutex>
#include <optional>
#include <vector>

#include "weft/tensor/check.h"

#include "cuda/relaxed_capture.h"

namespace weft::attention {
namespace {

using cudnn::Graph;
using cudnn::TensorId;
using Dims = std::vector<int64_t>;

constexpr cudnnDataType_t kF32 = CUDNN_DATA_FLOAT;
constexpr size_t kAlignment = 256;

size_t aligned(size_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

/// A graph and the shapes of one problem. cuDNN takes heads before rows; strides say the rest.
struct Builder {
  explicit Builder(const FlashAttentionParams& params)
      : p(params),
        type(cudnn::data_type(params.dtype)),
        scores_dims{p.batch, p.heads, p.queries, p.keys},
        column_dims{p.batch, p.heads, p.queries, 1} {}

  TensorId heads(const HeadsView& view, int64_t count, int64_t rows, int64_t dim) {
    return graph.tensor(type, {p.batch, count, rows, dim},
                        {view.batch_stride, view.head_stride, view.row_stride, 1});
  }
  TensorId transposed_heads(const HeadsView& view, int64_t count, int64_t rows, int64_t dim) {
    return graph.tensor(type, {p.batch, count, dim, rows},
                        {view.batch_stride, view.head_stride, 1, view.row_stride});
  }
  TensorId scores(cudnnDataType_t of = kF32) { return graph.between(of, scores_dims); }
  TensorId column() { return graph.between(kF32, column_dims); }

  TensorId apply(cudnnPointwiseMode_t mode, TensorId x) {
    const TensorId y = graph.between(kF32, graph.dims(x));
    graph.pointwise(mode, x, y);
    return y;
  }
  TensorId apply(cudnnPointwiseMode_t mode, TensorId x, TensorId b, cudnnDataType_t of = kF32) {
    const TensorId y = graph.between(of, graph.dims(x));
    graph.pointwise(mode, x, b, y);
    return y;
  }

  /// scale * q k^T
  TensorId scaled_scores(TensorId q, TensorId k_transposed) {
    const TensorId product = scores();
    graph.matmul(q, k_transposed, product);
    return apply(CUDNN_POINTWISE_MUL, product, graph.scalar(static_cast<float>(p.scale)));
  }

  TensorId keep_where(TensorId condition, TensorId x) {
    const TensorId y = scores();
    graph.select(condition, x, graph.scalar(-std::numeric_limits<float>::infinity()), y);
    return y;
  }

  TensorId index(TensorId x, int64_t axis) {
    const TensorId y = scores(CUDNN_DATA_INT32);
    graph.index(x, axis, y);
    return y;
  }

  /// Scores of hidden keys become -inf. cuDNN knows masks by the form of these comparisons, and
  /// skips the tiles that they hide.
  TensorId mask(TensorId x) {
    constexpr cudnnDataType_t kInt = CUDNN_DATA_INT32, kBool = CUDNN_DATA_BOOLEAN;
    if (p.causal) {  // row + keys - queries >= column
      const TensorId unmasked = x;
      TensorId row = index(unmasked, 2);
      const TensorId column = index(unmasked, 3);
      if (p.keys != p.queries) {
        row = apply(CUDNN_POINTWISE_ADD, row, graph.scalar(static_cast<int32_t>(p.keys)), kInt);
        row = apply(CUDNN_POINTWISE_SUB, row, graph.scalar(static_cast<int32_t>(p.queries)), kInt);
      }
      x = keep_where(apply(CUDNN_POINTWISE_CMP_GE, row, column, kBool), unmasked);
    }
    if (p.window > 0 && p.window < p.keys) {  // column + window - (keys - queries) > row
      const TensorId row = index(x, 2), column = index(x, 3);
      const auto shift = static_cast<float>(p.window - (p.keys - p.queries));
      const TensorId end = apply(CUDNN_POINTWISE_ADD, column, graph.scalar(shift));
      x = keep_where(apply(CUDNN_POINTWISE_CMP_GT, end, row, kBool), x);
    }
    return x;
  }

  const FlashAttentionParams& p;
  const cudnnDataType_t type;
  const Dims scores_dims, column_dims;
  Graph graph;
};

constexpr const char* kNoRows =
    "cuDNN's attention takes rows at addresses of their own, aligned to 16 bytes";

/// Whether cuDNN can read or write the tensor where it lies.
bool has_whole_rows(const HeadsView& x, int64_t batch, int64_t rows, int64_t heads) {
  constexpr int64_t kElements = 8;  // of 16 bytes
  const auto fits = [](int64_t length, int64_t stride) {
    return stride % kElements == 0 && (length == 1 || stride > 0);
  };
  return fits(batch, x.batch_stride) && fits(rows, x.row_stride) && fits(heads, x.head_stride) &&
         reinterpret_cast<uintptr_t>(x.data) % 16 == 0;
}

template <class Params>
void check_limits(const Params& params) {
  const std::string reason = cudnn_attention_limits(params);
  if (!reason.empty()) throw cudnn::UnsupportedGraph(reason);
}

}  // namespace

std::string cudnn_attention_limits(const FlashAttentionParams& p) {
  if (p.dtype != DType::bf16 && p.dtype != DType::f16)
    return fmt::format("cuDNN's attention takes bf16 or f16, got {}", p.dtype);
  if (p.key_length != 1 || p.key_stride != 1)
    return "cuDNN's attention takes keys that stand for one token each";
  if ((p.causal || p.window > 0) && p.position != p.keys - p.queries)
    return fmt::format("cuDNN's attention aligns the last query with the last key, got position {}",
                       p.position);
  if ((p.causal || p.window > 0) && p.position < 0)
    return fmt::format("cuDNN's attention takes no queries without a key ({} queries, {} keys)",
                       p.queries, p.keys);
  if (p.batch * p.queries * p.keys * p.heads == 0)
    return "cuDNN's attention takes no empty tensors";
  if (p.dim % 8 != 0 || p.value_dim % 8 != 0)
    return fmt::format("cuDNN's attention takes head dims that are multiples of 8, got {} and {}",
                       p.dim, p.value_dim);
  for (const HeadsView& view : {p.q, p.o})
    if (!has_whole_rows(view, p.batch, p.queries, p.heads)) return kNoRows;
  for (const HeadsView& view : {p.k, p.v})
    if (!has_whole_rows(view, p.batch, p.keys, p.kv_heads)) return kNoRows;
  return "";
}

std::string cudnn_attention_limits(const FlashAttentionBackwardParams& p) {
  for (const HeadsView& view : {p.dout, p.dq})
    if (!has_whole_rows(view, p.batch, p.queries, p.heads)) return kNoRows;
  for (const HeadsView& view : {p.dk, p.dv})
    if (!has_whole_rows(view, p.batch, p.keys, p.kv_heads)) return kNoRows;
  return cudnn_attention_limits(static_cast<const FlashAttentionParams&>(p));
}

CudnnAttention CudnnAttention::forward(const FlashAttentionParams& p, cudnnHandle_t handle,
                                       int64_t skip) {
  check_limits(p);
  Builder b(p);
  Graph& graph = b.graph;
  Tensors t;
  t.q = b.heads(p.q, p.heads, p.queries, p.dim);
  t.k = b.transposed_heads(p.k, p.kv_heads, p.keys, p.dim);
  const TensorId scores = b.mask(b.scaled_scores(t.q, t.k));

  const TensorId max = b.column();
  graph.reduce(CUDNN_REDUCE_TENSOR_MAX, scores, max);
  const TensorId exp = b.apply(CUDNN_POINTWISE_EXP, b.apply(CUDNN_POINTWISE_SUB, scores, max));
  const TensorId sum = b.column();
  graph.reduce(CUDNN_REDUCE_TENSOR_ADD, exp, sum);
  // cuDNN knows the pattern by its row statistics, wanted or not.
  t.lse = p.lse != nullptr ? graph.tensor(kF32, b.column_dims) : b.column();
  graph.pointwise(CUDNN_POINTWISE_ADD, max, b.apply(CUDNN_POINTWISE_LOG, sum), t.lse);
  const TensorId weights = b.apply(CUDNN_POINTWISE_DIV, exp, sum, b.type);

  t.v = b.heads(p.v, p.kv_heads, p.keys, p.value_dim);
  t.o = b.heads(p.o, p.heads, p.queries, p.value_dim);
  graph.matmul(weights, t.v, t.o);
  return {t, graph.compile(handle, skip)};
}

CudnnAttention CudnnAttention::backward(const FlashAttentionBackwardParams& p, cudnnHandle_t handle,
                                        int64_t skip) {
  check_limits(p);
  Builder b(p);
  Graph& graph = b.graph;
  Tensors t;
  t.dout = b.heads(p.dout, p.heads, p.queries, p.value_dim);
  t.o = b.heads(p.o, p.heads, p.queries, p.value_dim);

  // Row sums of dout * o. They, and dq's sums below, are tensors of the workspace.
  const TensorId product = b.graph.between(kF32, {p.batch, p.heads, p.queries, p.value_dim});
  graph.pointwise(CUDNN_POINTWISE_MUL, t.dout, t.o, product);
  const TensorId sum = b.column();
  graph.reduce(CUDNN_REDUCE_TENSOR_ADD, product, sum);
  t.row_sum = graph.tensor(kF32, b.column_dims);
  graph.pointwise(CUDNN_POINTWISE_MUL, sum, graph.scalar(1.0f), t.row_sum);

  t.q = b.heads(p.q, p.heads, p.queries, p.dim);
  t.k = b.transposed_heads(p.k, p.kv_heads, p.keys, p.dim);
  t.lse = graph.tensor(kF32, b.column_dims);
  const TensorId shifted = b.apply(CUDNN_POINTWISE_SUB, b.scaled_scores(t.q, t.k), t.lse);
  const TensorId weights = b.apply(CUDNN_POINTWISE_EXP, b.mask(shifted));

  const auto transpose = [&](TensorId scores) {
    const TensorId y = graph.between(b.type, {p.batch, p.heads, p.keys, p.queries},
                                     {p.heads * p.queries * p.keys, p.queries * p.keys, 1, p.keys});
    graph.reshape(scores, y);
    return y;
  };
  // Gradients of keys and values come per query head and are then summed over the group.
  const auto grouped_product = [&](TensorId left, TensorId right, const HeadsView& view,
                                   int64_t dim) {
    const TensorId gradient = b.heads(view, p.kv_heads, p.keys, dim);
    if (p.heads == p.kv_heads) {
      graph.matmul(left, right, gradient);
    } else {
      const TensorId per_head = graph.between(b.type, {p.batch, p.heads, p.keys, dim});
      graph.matmul(left, right, per_head);
      graph.reduce(CUDNN_REDUCE_TENSOR_ADD, per_head, gradient);
    }
    return gradient;
  };
  t.dv = grouped_product(transpose(weights), t.dout, p.dv, p.value_dim);

  t.v = b.transposed_heads(p.v, p.kv_heads, p.keys, p.value_dim);
  const TensorId d_weights = b.scores();
  graph.matmul(t.dout, t.v, d_weights);
  const TensorId centred = b.apply(CUDNN_POINTWISE_SUB, d_weights, t.row_sum);
  const TensorId weighted = b.apply(CUDNN_POINTWISE_MUL, centred, weights);
  const TensorId d_scores =
      b.apply(CUDNN_POINTWISE_MUL, weighted, graph.scalar(static_cast<float>(p.scale)), b.type);
  t.dk = grouped_product(transpose(d_scores), t.q, p.dk, p.dim);

  const TensorId k_rows = graph.between(b.type, {p.batch, p.kv_heads, p.keys, p.dim},
                                        {p.k.batch_stride, p.k.head_stride, p.k.row_stride, 1});
  graph.reshape(t.k, k_rows);
  t.dq_sum = graph.tensor(kF32, {p.batch, p.heads, p.queries, p.dim});
  graph.matmul(d_scores, k_rows, t.dq_sum);
  t.dq = b.heads(p.dq, p.heads, p.queries, p.dim);
  graph.pointwise(CUDNN_POINTWISE_IDENTITY, t.dq_sum, t.dq);

  const auto rows = static_cast<size_t>(p.batch * p.heads * p.queries);
  t.row_sum_bytes = aligned(rows * sizeof(float));
  t.dq_sum_bytes = aligned(rows * static_cast<size_t>(p.dim) * sizeof(float));
  return {t, graph.compile(handle, skip)};
}

size_t CudnnAttention::workspace_bytes() const {
  return tensors_.dq_sum_bytes + tensors_.row_sum_bytes + plan_.workspace_bytes();
}

void CudnnAttention::run(const FlashAttentionParams& p, cudnnHandle_t handle,
                         void* workspace) const {
  const Tensors& t = tensors_;
  if (p.lse != nullptr) {
    plan_.run(handle,
              {{t.q, p.q.data}, {t.k, p.k.data}, {t.v, p.v.data}, {t.o, p.o.data}, {t.lse, p.lse}},
              workspace);
  } else {
    plan_.run(handle, {{t.q, p.q.data}, {t.k, p.k.data}, {t.v, p.v.data}, {t.o, p.o.data}},
              workspace);
  }
}

void CudnnAttention::run(const FlashAttentionBackwardParams& p, cudnnHandle_t handle,
                         void* workspace) const {
  const Tensors& t = tensors_;
  auto* const dq_sum = static_cast<std::byte*>(workspace);
  std::byte* const row_sum = dq_sum + t.dq_sum_bytes;
  plan_.run(handle,
            {{t.q, p.q.data},
             {t.k, p.k.data},
             {t.v, p.v.data},
             {t.o, p.o.data},
             {t.lse, p.lse},
             {t.dout, p.dout.data},
             {t.dq, p.dq.data},
             {t.dk, p.dk.data},
             {t.dv, p.dv.data},
             {t.dq_sum, dq_sum},
             {t.row_sum, row_sum}},
            row_sum + t.row_sum_bytes);
}

namespace {

void append(std::vector<int64_t>& key, const HeadsView& view) {
  key.insert(key.end(), {view.batch_stride, view.row_stride, view.head_stride});
}

}  // namespace

std::vector<int64_t> cudnn_plan_key(const FlashAttentionParams& p, int device) {
  std::vector<int64_t> key{device,          static_cast<int64_t>(p.dtype),
                           p.batch,         p.queries,
                           p.keys,          p.heads,
                           p.kv_heads,      p.dim,
                           p.value_dim,     p.causal,
                           p.window,        std::bit_cast<int64_t>(p.scale),
                           p.lse != nullptr};
  for (const HeadsView& view : {p.q, p.k, p.v, p.o}) append(key, view);
  return key;
}

std::vector<int64_t> cudnn_plan_key(const FlashAttentionBackwardParams& p, int device) {
  std::vector<int64_t> key = cudnn_plan_key(static_cast<const FlashAttentionParams&>(p), device);
  for (const HeadsView& view : {p.dout, p.dq, p.dk, p.dv}) append(key, view);
  return key;
}

namespace {

/// Plans made so far and the reasons where there is none. Never destroyed: plans must not outlive
/// the CUDA runtime's own shutdown, nor go before graphs that hold their kernels.
class PlanCache {
 public:
  template <class Make>
  const CudnnAttention* find_or_make(const std::vector<int64_t>& key, const Make& make,
                                     std::string* refusal) {
    const std::lock_guard lock(mutex_);
    auto [entry, is_new] = entries_.try_emplace(key);
    Entry& found = entry->second;
    if (is_new) {
      const cuda::RelaxedCapture relaxed;  // kernels are made and loaded, but not run
      try {
        found.plan.emplace(make());
      } catch (const Error& error) {  // no work was started: the caller has other kernels
        found.refusal = error.what();
      }
    }
    if (refusal != nullptr) *refusal = found.refusal;
    return found.plan ? &*found.plan : nullptr;
  }

 private:
  struct Entry {
    std::optional<CudnnAttention> plan;
    std::string refusal;
  };
  std::mutex mutex_;
  std::map<std::vector<int64_t>, Entry> entries_;
};

template <class Params, class Make>
const CudnnAttention* cached_plan(const Params& params, int device, const Make& make,
                                  std::string* refusal) {
  static PlanCache& cache = *new PlanCache;
  return cache.find_or_make(cudnn_plan_key(params, device), make, refusal);
}

}  // namespace

const CudnnAttention* cudnn_attention_forward(const FlashAttentionParams& params, int device,
                                              cudnnHandle_t handle, std::string* refusal) {
  return cached_plan(
      params, device, [&] { return CudnnAttention::forward(params, handle); }, refusal);
}

const CudnnAttention* cudnn_attention_backward(const FlashAttentionBackwardParams& params,
                                               int device, cudnnHandle_t handle,
                                               std::string* refusal) {
  return cached_plan(
      params, device, [&] { return CudnnAttention::backward(params, handle); }, refusal);
}

}  // namespace weft::attention
