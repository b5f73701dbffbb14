// Forward of full and sliding-window attention on the CPU. The T * G query rows that share a key
// head are cut into tiles of kTileRows; a task is one tile, which reads its keys once. Few rows, as
// in decoding, take another way.
#include <algorithm>

#include "weft/tensor/dispatch.h"
#include "weft/tensor/parallel.h"

#include "kernels/flash_attention_kernels.h"
#include "kernels/forward_tile.h"
#include "kernels/split_attention_kernels.h"

namespace weft::attention {
namespace {

int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

template <class T>
class Forward {
  using A = accumulator_t<T>;

 public:
  explicit Forward(const FlashAttentionParams& params)
      : p_(params),
        group_(params.heads / params.kv_heads),
        rows_(params.queries * group_),
        tiles_(ceil_div(rows_, kTileRows)) {}

  void run() {
    const int64_t packed = kTileKeys * (padded<A>(p_.dim) + padded<A>(p_.value_dim));
    const int64_t tile_scratch = ForwardTile<A>::scratch_elements(p_.dim, p_.value_dim);
    ThreadScratch<A> scratch(num_threads(), packed + tile_scratch);
    const int64_t pairs = p_.batch * p_.kv_heads;
    // The tiles of one key head run one after the other where there are enough heads for all
    // threads: its keys then stay in the cache. Otherwise each tile is a task; the last, which see
    // most keys under a causal mask, go first.
    const bool by_head = pairs >= 4 * num_threads();
    const int64_t grain = by_head ? tiles_ : 1;
    parallel_for_dynamic(0, pairs * tiles_, grain, [&](int64_t begin, int64_t end, int thread) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t pair = by_head ? task / tiles_ : task % pairs;
        const int64_t tile = tiles_ - 1 - (by_head ? task % tiles_ : task / pairs);
        run_tile(pair / p_.kv_heads, pair % p_.kv_heads, tile, scratch.of(thread));
      }
    });
  }

 private:
  const T* at(const HeadsView& view, int64_t b, int64_t row, int64_t head) const {
    return static_cast<const T*>(view.data) + b * view.batch_stride + row * view.row_stride +
           head * view.head_stride;
  }

  void run_tile(int64_t b, int64_t kv_head, int64_t tile, A* scratch) {
    const int64_t row0 = tile * kTileRows;
    const int64_t rows = std::min(kTileRows, rows_ - row0);
    A* const k_buffer = scratch;
    A* const v_buffer = k_buffer + kTileKeys * padded<A>(p_.dim);
    ForwardTile<A> state(v_buffer + kTileKeys * padded<A>(p_.value_dim), p_.dim, p_.value_dim,
                         p_.scale);
    pack_queries(b, kv_head, row0, rows, state.queries());
    state.start(rows);

    const auto range = p_.visible_keys(row0 / group_, (row0 + rows - 1) / group_ + 1);
    // Tiles of keys are cut at fixed positions, so that a row's sums do not depend on the rows
    // beside it.
    for (int64_t s = range.first / kTileKeys * kTileKeys; s < range.last; s += kTileKeys) {
      const int64_t count = std::min(kTileKeys, p_.keys - s);
      const TileRows<A> k =
          left_rows(at(p_.k, b, s, kv_head), p_.k.row_stride, count, p_.dim, k_buffer);
      const TileRows<A> v =
          right_rows(at(p_.v, b, s, kv_head), p_.v.row_stride, count, p_.value_dim, v_buffer);
      prefetch(b, kv_head, row0, s, range.last, state.prefetch());
      typename ForwardTile<A>::Bounds bounds;
      const bool hides = fill_bounds(row0, rows, s, count, bounds);
      state.absorb(count, k, v, hides ? &bounds : nullptr);
    }
    write(b, kv_head, row0, rows, state);
  }

  /// Asks for what comes after the keys at s: the next tile of keys, or the rows of o.
  void prefetch(int64_t b, int64_t kv_head, int64_t row0, int64_t s, int64_t last,
                PrefetchQueue& queue) const {
    queue.clear();
    const int64_t next = s + kTileKeys;
    if (next < last) {
      const int64_t count = std::min(kTileKeys, p_.keys - next);
      queue.add(at(p_.k, b, next, kv_head), p_.k.row_stride, count, p_.dim);
      queue.add(at(p_.v, b, next, kv_head), p_.v.row_stride, count, p_.value_dim);
    } else {
      const int64_t t0 = row0 / group_;
      const int64_t rows = std::min(ceil_div(kTileRows, group_), p_.queries - t0);
      for (int64_t g = 0; g < std::min<int64_t>(group_, 6); ++g) {
        queue.add(at(p_.o, b, t0, kv_head * group_ + g), p_.o.row_stride, rows, p_.value_dim,
                  /*write=*/true);
      }
      if (t0 >= rows) {
        queue.add(at(p_.q, b, t0 - rows, kv_head * group_), p_.q.row_stride, rows, p_.dim);
      }
    }
    queue.spread(ForwardTile<A>::kPrefetchSteps);
  }

  void pack_queries(int64_t b, int64_t kv_head, int64_t row0, int64_t rows, A* to) const {
    pack_transposed(
        [&](int64_t r) {
          return at(p_.q, b, (row0 + r) / group_, kv_head * group_ + (row0 + r) % group_);
        },
        rows, p_.dim, to, kTileRows);
  }

  /// False when every row sees every key of the tile.
  bool fill_bounds(int64_t row0, int64_t rows, int64_t s, int64_t count,
                   typename ForwardTile<A>::Bounds& bounds) const {
    const auto range_of = [&](int64_t r) {
      const int64_t t = (row0 + std::min(r, rows - 1)) / group_;
      return p_.visible_keys(t, t + 1);
    };
    // Later rows see later keys.
    if (range_of(rows - 1).first <= s && range_of(0).last >= s + count) return false;
    for (int64_t r = 0; r < padded<A>(rows); ++r) {
      const auto range = range_of(r);
      bounds.first[r] = static_cast<A>(std::clamp<int64_t>(range.first - s, 0, count));
      bounds.last[r] = static_cast<A>(std::clamp<int64_t>(range.last - s, 0, count));
    }
    return true;
  }

  void write(int64_t b, int64_t kv_head, int64_t row0, int64_t rows,
             const ForwardTile<A>& state) const {
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t t = (row0 + r) / group_;
      const int64_t h = kv_head * group_ + (row0 + r) % group_;
      T* const o = const_cast<T*>(at(p_.o, b, t, h));
      const A normaliser = state.normaliser(r);
      if (normaliser == 0) {
        std::fill_n(o, p_.value_dim, T(A(0)));
      } else {
        const A* const sum = state.output(r);
        for (int64_t e = 0; e < p_.value_dim; ++e) o[e] = static_cast<T>(sum[e] * normaliser);
      }
      static_cast<A*>(p_.lse)[(b * p_.heads + h) * p_.queries + t] = state.lse(r);
    }
  }

  const FlashAttentionParams& p_;
  int64_t group_, rows_, tiles_;
};

}  // namespace

void flash_attention_forward_cpu(const FlashAttentionParams& params, Stream stream) {
  if (has_few_rows(params)) {
    SplitAttentionParams split;
    static_cast<FlashAttentionParams&>(split) = params;
    split_attention_forward_cpu(split, stream);
    return;
  }
  dispatch_floating(params.dtype, "flash_attention", [&]<class T>() { Forward<T>(params).run(); });
}

}  // namespace weft::attention
