#include "weft/tensor/ops/rope.h"

#include <algorithm>
#include <cmath>
#include <mutex>
#include <vector>

#include "weft/tensor/check.h"
#include "weft/tensor/graph.h"
#include "weft/tensor/kernel.h"
#include "weft/tensor/parallel.h"

#include "ops/elementwise.h"
#include "ops/op_list.h"
#include "ops/rope_kernels.h"
#include "ops/rows.h"

namespace weft {
namespace {

constexpr Kernel<void(RopeParams&, Stream)> kRope{"rope", &rope_cpu, WEFT_CUDA_KERNEL(rope_cuda)};

/// Cosines and sines of the given positions, or of 0, 1, ... where `positions` is null.
template <class A>
void fill_table(double theta, const int64_t* positions, Tensor& table) {
  const int64_t half = table.size(1) / 2;
  std::vector<double> frequencies(static_cast<size_t>(half));
  for (int64_t i = 0; i < half; ++i) {
    frequencies[static_cast<size_t>(i)] =
        std::pow(theta, -static_cast<double>(i) / static_cast<double>(half));
  }
  A* const out = table.data<A>();
  parallel_for(0, table.size(0), 64, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const double position = static_cast<double>(positions == nullptr ? row : positions[row]);
      A* const cosines = out + row * 2 * half;
      for (int64_t i = 0; i < half; ++i) {
        const double angle = position * frequencies[static_cast<size_t>(i)];
        cosines[i] = static_cast<A>(std::cos(angle));
        cosines[half + i] = static_cast<A>(std::sin(angle));
      }
    }
  });
}

Tensor make_table(double theta, int64_t rotary_dim, int64_t rows, const int64_t* positions,
                  DType dtype, Device device) {
  Tensor table = empty({rows, rotary_dim}, dtype);
  if (dtype == DType::f64) {
    fill_table<double>(theta, positions, table);
  } else {
    fill_table<float>(theta, positions, table);
  }
  return table.to(device);
}

/// Positions up to which tables are kept.
constexpr int64_t kMaxCachedPositions = int64_t{1} << 20;
constexpr int64_t kMostStride = int64_t{1} << 30;

/// The tables made so far: a model uses one or two.
class TableCache {
 public:
  Tensor get(double theta, int64_t rotary_dim, int64_t positions, DType dtype, Device device) {
    const std::lock_guard lock(mutex_);
    const auto found = std::find_if(entries_.begin(), entries_.end(), [&](const Entry& entry) {
      return entry.theta == theta && entry.table.size(1) == rotary_dim &&
             entry.table.dtype() == dtype && entry.table.device() == device;
    });
    if (found != entries_.end()) {
      if (found->table.size(0) >= positions) return found->table;
      entries_.erase(found);
    } else if (entries_.size() == kMaxEntries) {
      entries_.erase(entries_.begin());
    }
    int64_t length = 512;
    while (length < positions) length *= 2;  // so that decoding does not rebuild it every token
    entries_.push_back({theta, make_table(theta, rotary_dim, length, nullptr, dtype, device)});
    return entries_.back().table;
  }

 private:
  static constexpr size_t kMaxEntries = 8;
  struct Entry {
    double theta;
    Tensor table;
  };
  std::mutex mutex_;
  std::vector<Entry> entries_;
};

TableCache& table_cache() {
  static TableCache cache;
  return cache;
}

void check_frequencies(const char* op, double theta, int64_t rotary_dim) {
  WEFT_CHECK(std::isfinite(theta) && theta > 0, ConfigError, "{}: theta must be positive, got {}",
             op, theta);
  WEFT_CHECK(rotary_dim >= 2 && rotary_dim % 2 == 0, ConfigError,
             "{}: rotary_dim must be even and at least 2, got {}", op, rotary_dim);
}

int64_t checked_rotary_dim(const char* op, const Tensor& x, const RopeOptions& options) {
  WEFT_CHECK(x.defined() && x.rank() == 4, ShapeError, "{}: x must be [B, T, H, D], got {}", op, x);
  WEFT_CHECK(is_floating(x.dtype()), DTypeError, "{}: x must be of a floating type, got {}", op, x);
  const int64_t channels = x.size(3);
  WEFT_CHECK(options.rotary_begin >= 0 && options.rotary_begin <= channels, ConfigError,
             "{}: rotary_begin {} outside x {}", op, options.rotary_begin, x);
  const int64_t rotary_dim =
      options.rotary_dim == 0 ? channels - options.rotary_begin : options.rotary_dim;
  check_frequencies(op, options.theta, rotary_dim);
  WEFT_CHECK(options.rotary_begin + rotary_dim <= channels, ConfigError,
             "{}: {} rotary channels from {} on exceed x {}", op, rotary_dim, options.rotary_begin,
             x);
  return rotary_dim;
}

/// Sets params.table, rows and first_row for x [B, T, ...].
void choose_table(const char* op, const Tensor& x, int64_t rotary_dim, const RopeOptions& options,
                  RopeParams& params) {
  const int64_t batch = x.size(0);
  const int64_t tokens = x.size(1);
  const DType dtype = accumulator_of(x.dtype());
  int64_t needed = 0;  // rows of a table of positions 0, 1, ...
  std::vector<int64_t> positions;
  if (options.positions.defined()) {
    const Tensor& given = options.positions;
    WEFT_CHECK(given.dtype() == DType::i64, DTypeError, "{}: positions must be i64, got {}", op,
               given);
    WEFT_CHECK(given.shape() == Shape({tokens}) || given.shape() == Shape({batch, tokens}),
               ShapeError, "{}: positions must be [{}] or [{}, {}], got {}", op, tokens, batch,
               tokens, given);
    WEFT_CHECK(options.offset == 0, ConfigError,
               "{}: give either positions or an offset, got offset {}", op, options.offset);
    // The kernel can check those on a GPU, where the table's length is known without them.
    if (given.device().is_cpu() || !options.table.defined()) positions = given.to_vector<int64_t>();
    for (const int64_t position : positions) {
      WEFT_CHECK(position >= 0, IndexError, "{}: position {} is negative", op, position);
      needed = std::max(needed, position + 1);
    }
  } else {
    WEFT_CHECK(options.offset >= 0 && options.offset <= (int64_t{1} << 62), IndexError,
               "{}: offset must be at least 0, got {}", op, options.offset);
    WEFT_CHECK(options.stride >= 1 && options.stride <= kMostStride, ConfigError,
               "{}: stride must be 1 to {}, got {}", op, kMostStride, options.stride);
    needed = tokens == 0 ? 0 : options.offset + (tokens - 1) * options.stride + 1;
  }
  if (options.table.defined()) {
    const Tensor& table = options.table;
    WEFT_CHECK(table.rank() == 2 && table.size(1) == rotary_dim, ShapeError,
               "{}: table must be [positions, {}], got {}", op, rotary_dim, table);
    WEFT_CHECK(table.dtype() == dtype, DTypeError, "{}: table must be {} for x {}, got {}", op,
               dtype, x, table);
    WEFT_CHECK(table.device() == x.device(), DeviceError, "{}: table must be on {}, got {}", op,
               x.device(), table);
    WEFT_CHECK(needed <= table.size(0), IndexError, "{}: position {} is beyond the table {}", op,
               needed - 1, table);
    params.table = table.contiguous();
  } else if (needed > kMaxCachedPositions) {
    // Far positions get a table of their own, with one row per token.
    if (positions.empty()) {
      for (int64_t t = 0; t < tokens; ++t) positions.push_back(options.offset + t * options.stride);
    }
    const auto rows = static_cast<int64_t>(positions.size());
    params.table = make_table(options.theta, rotary_dim, rows, positions.data(), dtype, x.device());
    if (rows != tokens)
      params.rows = arange(0, rows, 1, DType::i64, x.device()).view({batch, tokens});
    return;
  } else {
    params.table = table_cache().get(options.theta, rotary_dim, needed, dtype, x.device());
    keep_for_capture(params.table);
  }
  params.first_row = options.offset;
  params.row_step = options.stride;
  if (options.positions.defined())
    params.rows = options.positions.to(x.device()).expand({batch, tokens});
}

bool last_axis_dense(const Tensor& x) {
  return x.size(-1) <= 1 || x.stride(-1) == 1;
}

}  // namespace

Tensor rope_table(double theta, int64_t rotary_dim, int64_t positions, DType dtype, Device device) {
  check_frequencies("rope_table", theta, rotary_dim);
  WEFT_CHECK(positions >= 0, ConfigError, "rope_table: positions must be at least 0, got {}",
             positions);
  WEFT_CHECK(dtype == DType::f32 || dtype == DType::f64, DTypeError,
             "rope_table: takes f32 or f64, got {}", dtype);
  return make_table(theta, rotary_dim, positions, nullptr, dtype, device);
}

Tensor shared_rope_table(double theta, int64_t rotary_dim, int64_t positions, DType dtype,
                         Device device) {
  constexpr const char* kOp = "shared_rope_table";
  check_frequencies(kOp, theta, rotary_dim);
  WEFT_CHECK(positions >= 0 && positions <= kMaxCachedPositions, ConfigError,
             "{}: positions must lie in [0, {}], got {}", kOp, kMaxCachedPositions, positions);
  WEFT_CHECK(dtype == DType::f32 || dtype == DType::f64, DTypeError, "{}: takes f32 or f64, got {}",
             kOp, dtype);
  return table_cache().get(theta, rotary_dim, positions, dtype, device);
}

void rope_into(Tensor& out, const Tensor& x, const RopeOptions& options, bool inverse) {
  const char* const op = inverse ? "rope_backward" : "rope";
  const int64_t rotary_dim = checked_rotary_dim(op, x, options);
  check_same_kind(op, "out", out, "x", x);
  check_writable(op, out);
  RopeParams params;
  choose_table(op, x, rotary_dim, options, params);
  if (x.numel() == 0) return;
  params.x = apart_from(last_axis_dense(x) ? x : x.contiguous(), out);
  params.out = last_axis_dense(out) ? out : empty(out.shape(), out.dtype(), out.device());
  params.begin = options.rotary_begin;
  params.inverse = inverse;
  kRope(x.device())(params, current_stream(x.device()));
  if (last_axis_dense(out)) {
    out.storage()->bump_version();
  } else {
    out.copy_(params.out);
  }
}

Tensor rope(const Tensor& x, const RopeOptions& options) {
  checked_rotary_dim("rope", x, options);
  Tensor y = empty(x.shape(), x.dtype(), x.device());
  rope_into(y, x, options);
  return y;
}

Tensor rope_backward(const Tensor& dy, const RopeOptions& options) {
  checked_rotary_dim("rope_backward", dy, options);
  Tensor dx = empty(dy.shape(), dy.dtype(), dy.device());
  rope_into(dx, dy, options, /*inverse=*/true);
  return dx;
}

void rope_(Tensor& x, const RopeOptions& options) {
  rope_into(x, x, options);
}

Qkv split_qkv(const Tensor& packed, const QkvSplit& split) {
  constexpr const char* kOp = "split_qkv";
  WEFT_CHECK(packed.defined() && packed.rank() == 3, ShapeError,
             "{}: packed must be [B, T, width], got {}", kOp, packed);
  WEFT_CHECK(split.heads >= 1 && split.kv_heads >= 1 && split.head_dim >= 1 && split.dv() >= 1,
             ConfigError, "{}: heads {}, kv_heads {}, head_dim {}, value_head_dim {}", kOp,
             split.heads, split.kv_heads, split.head_dim, split.value_head_dim);
  WEFT_CHECK(packed.size(2) == split.width(), ShapeError,
             "{}: packed must have a last axis of {} for {} heads and {} kv heads, got {}", kOp,
             split.width(), split.heads, split.kv_heads, packed);
  const auto heads = [&](int64_t begin, int64_t count, int64_t dim) {
    const Tensor part = packed.slice(2, begin, begin + count * dim);
    return part.view({packed.size(0), packed.size(1), count, dim});
  };
  const int64_t keys = split.heads * split.head_dim;
  const int64_t values = keys + split.kv_heads * split.head_dim;
  return {heads(0, split.heads, split.head_dim), heads(keys, split.kv_heads, split.head_dim),
          heads(values, split.kv_heads, split.dv())};
}

Qkv rope_qkv(const Tensor& packed, const QkvSplit& split, const RopeOptions& options) {
  const Qkv parts = split_qkv(packed, split);
  return {rope(parts.q, options), rope(parts.k, options), parts.v};
}

namespace {

/// dpacked, whose parts of queries and keys are written by write_heads(part, gradient).
template <class WriteHeads>
Tensor pack_gradients(const char* op, const Qkv& grads, const Shape& packed_shape, DType dtype,
                      const QkvSplit& split, WriteHeads&& write_heads) {
  const Tensor& any = grads.q.defined() ? grads.q : grads.k.defined() ? grads.k : grads.v;
  WEFT_CHECK(any.defined(), ShapeError, "{}: no gradient is defined", op);
  Tensor dpacked = empty(packed_shape, dtype, any.device());
  Qkv parts = split_qkv(dpacked, split);
  const auto write = [](Tensor& part, const Tensor& grad, const auto& writer) {
    if (grad.defined()) {
      writer(part, grad);
    } else {
      part.zero_();
    }
  };
  write(parts.q, grads.q, write_heads);
  write(parts.k, grads.k, write_heads);
  write(parts.v, grads.v, [op](Tensor& part, const Tensor& grad) {
    check_same_kind(op, "dv", grad, "v", part);
    part.copy_(grad);
  });
  return dpacked;
}

}  // namespace

Tensor split_qkv_backward(const Qkv& grads, const Shape& packed_shape, DType dtype,
                          const QkvSplit& split) {
  constexpr const char* kOp = "split_qkv_backward";
  return pack_gradients(kOp, grads, packed_shape, dtype, split,
                        [](Tensor& part, const Tensor& grad) {
                          check_same_kind(kOp, "gradient", grad, "part", part);
                          part.copy_(grad);
                        });
}

Tensor rope_qkv_backward(const Qkv& grads, const Shape& packed_shape, DType dtype,
                         const QkvSplit& split, const RopeOptions& options) {
  return pack_gradients(
      "rope_qkv_backward", grads, packed_shape, dtype, split,
      [&](Tensor& part, const Tensor& grad) { rope_into(part, grad, options, /*inverse=*/true); });
}

void list_rope_ops(OpTable& table) {
  table.add(kRope, kFloatingTypes, {"rope", "rope_backward", "rope_qkv", "rope_qkv_backward"});
}

}  // namespace weft
