// Backward of full and sliding-window attention on the CPU. A task is one chunk of keys of one key
// head: it meets all query tiles that see it, for every query head of the group, and so owns its dk
// and dv. A query tile's dq gets one sum from each chunk; the chunks add theirs in ascending order,
// each waiting for its turn, so that the result does not depend on timing. Tasks start in that same
// order, so a waiting task always waits for a running one.
#include <algorithm>

#include "weft/tensor/dispatch.h"
#include "weft/tensor/parallel.h"

#include "kernels/backward_tile.h"
#include "kernels/flash_attention_kernels.h"
#include "kernels/turnstile.h"

namespace weft::attention {
namespace {

int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

/// Keys of one task. More keys share the reading of a query tile, as long as their sums fit in the
/// second-level cache; fewer give more tasks. Depends on the problem alone, as do the bits of dq.
int64_t choose_chunk(const FlashAttentionParams& p) {
  for (int64_t keys = 4 * kTileKeys; keys > kTileKeys; keys /= 2) {
    const bool fits = keys * (p.dim + p.value_dim) <= (1 << 15);
    const bool enough = p.batch * p.kv_heads * ceil_div(p.keys, keys) >= 32;
    if (fits && enough) return keys;
  }
  return kTileKeys;
}

template <class T>
class Backward {
  using A = accumulator_t<T>;

 public:
  explicit Backward(const FlashAttentionBackwardParams& params)
      : p_(params),
        group_(params.heads / params.kv_heads),
        tiles_(ceil_div(params.queries, kTileRows)),
        chunk_keys_(choose_chunk(params)),
        chunks_(ceil_div(params.keys, chunk_keys_)),
        dim_width_(padded<A>(params.dim)),
        value_width_(padded<A>(params.value_dim)),
        turns_(chunks_ > 1 ? params.batch * params.heads * tiles_ : 0) {
    if (chunks_ > 1) delta_ = empty({params.batch, params.heads, params.queries}, dtype_of<A>);
  }

  void run() {
    if (chunks_ != 1) prepare();
    const int64_t per_key = 2 * (dim_width_ + value_width_) + p_.dim + p_.value_dim;
    const int64_t per_row = 2 * dim_width_ + value_width_ + 1;
    ThreadScratch<A> scratch(num_threads(), chunk_keys_ * per_key + kTileRows * per_row +
                                                BackwardTile<A>::scratch_elements());
    // Chunk by chunk, so that threads that run side by side work on different heads; the first
    // chunks meet most queries under a causal mask.
    const int64_t pairs = p_.batch * p_.kv_heads;
    parallel_for_dynamic(0, pairs * chunks_, 1, [&](int64_t begin, int64_t end, int thread) {
      for (int64_t task = begin; task < end; ++task)
        run_chunk(task % pairs / p_.kv_heads, task % p_.kv_heads, task / pairs, scratch.of(thread));
    });
    if constexpr (!std::is_same_v<T, A>) {
      parallel_for(0, p_.batch * p_.queries, 16, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          const int64_t b = i / p_.queries, t = i % p_.queries;
          for (int64_t h = 0; h < p_.heads; ++h) {
            const A* const sum = dq_row(b, t, h);
            T* const dq = const_cast<T*>(at(p_.dq, b, t, h));
            for (int64_t d = 0; d < p_.dim; ++d) dq[d] = static_cast<T>(sum[d]);
          }
        }
      });
    }
  }

 private:
  const T* at(const HeadsView& view, int64_t b, int64_t row, int64_t head) const {
    return static_cast<const T*>(view.data) + b * view.batch_stride + row * view.row_stride +
           head * view.head_stride;
  }
  A* dq_row(int64_t b, int64_t t, int64_t h) const {
    return static_cast<A*>(p_.dq_sum.data) + b * p_.dq_sum.batch_stride + t * p_.dq_sum.row_stride +
           h * p_.dq_sum.head_stride;
  }
  FlashAttentionParams::Range chunks_of(int64_t tile) const {
    const auto range =
        p_.visible_keys(tile * kTileRows, std::min(p_.queries, (tile + 1) * kTileRows));
    if (range.empty()) return {0, 0};
    return {range.first / chunk_keys_, ceil_div(range.last, chunk_keys_)};
  }

  /// What several chunks need: delta of all rows and open turnstiles. Clears dq where no chunk will
  /// come.
  void prepare() {
    parallel_for(0, p_.batch * tiles_, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t b = i / tiles_, tile = i % tiles_;
        const int64_t t0 = tile * kTileRows;
        const int64_t rows = std::min(kTileRows, p_.queries - t0);
        const auto chunks = chunks_of(tile);
        for (int64_t h = 0; h < p_.heads; ++h) {
          if (chunks.empty()) {
            clear_dq(b, t0, rows, h);
          } else {
            turns_.open((b * p_.heads + h) * tiles_ + tile, chunks.first);
            compute_delta(b, t0, rows, h, delta_.data<A>() + statistics_at(b, t0, h));
          }
        }
      }
    });
  }

  /// delta = <dout, o>.
  void compute_delta(int64_t b, int64_t t0, int64_t rows, int64_t h, A* delta) const {
    for (int64_t r = 0; r < rows; ++r)
      delta[r] = dot(at(p_.dout, b, t0 + r, h), at(p_.o, b, t0 + r, h), p_.value_dim);
  }

  void clear_dq(int64_t b, int64_t t0, int64_t rows, int64_t h) const {
    for (int64_t r = 0; r < rows; ++r) std::fill_n(dq_row(b, t0 + r, h), p_.dim, A(0));
  }

  int64_t statistics_at(int64_t b, int64_t t, int64_t h) const {
    return (b * p_.heads + h) * p_.queries + t;
  }

  static A dot(const T* a, const T* b, int64_t count) {
    A lanes[16] = {};
    int64_t i = 0;
    for (; i + 16 <= count; i += 16) {
      for (int64_t l = 0; l < 16; ++l)
        lanes[l] += static_cast<A>(a[i + l]) * static_cast<A>(b[i + l]);
    }
    for (int64_t l = 0; i < count; ++i, ++l)
      lanes[l] += static_cast<A>(a[i]) * static_cast<A>(b[i]);
    A sum = 0;
    for (const A lane : lanes) sum += lane;
    return sum;
  }

  void run_chunk(int64_t b, int64_t kv_head, int64_t chunk, A* scratch) {
    const int64_t s0 = chunk * chunk_keys_;
    const int64_t count = std::min(chunk_keys_, p_.keys - s0);
    const auto take = [&](int64_t elements) {
      A* const piece = scratch;
      scratch += elements;
      return piece;
    };
    A* const k_columns = take(chunk_keys_ * p_.dim);
    A* const v_columns = take(chunk_keys_ * p_.value_dim);
    A* const k_buffer = take(chunk_keys_ * dim_width_);
    A* const dk = take(chunk_keys_ * dim_width_);
    A* const dv = take(chunk_keys_ * value_width_);
    A* const q_buffer = take(kTileRows * dim_width_);
    A* const dout_buffer = take(kTileRows * value_width_);
    A* const dq = take(kTileRows * dim_width_);
    A* const delta_buffer = take(kTileRows);
    BackwardTile<A> gradients(scratch, p_.dim, p_.value_dim, p_.scale);

    const T* const k_rows = at(p_.k, b, s0, kv_head);
    pack_transposed([&](int64_t j) { return at(p_.k, b, s0 + j, kv_head); }, count, p_.dim,
                    k_columns, chunk_keys_);
    pack_transposed([&](int64_t j) { return at(p_.v, b, s0 + j, kv_head); }, count, p_.value_dim,
                    v_columns, chunk_keys_);
    const TileRows<A> k = right_rows(k_rows, p_.k.row_stride, count, p_.dim, k_buffer);
    std::fill_n(dk, count * dim_width_, A(0));
    std::fill_n(dv, count * value_width_, A(0));

    for (int64_t h = kv_head * group_; h < (kv_head + 1) * group_; ++h) {
      for (int64_t tile = 0; tile < tiles_; ++tile) {
        const auto chunks = chunks_of(tile);
        const int64_t t0 = tile * kTileRows;
        const int64_t rows = std::min(kTileRows, p_.queries - t0);
        if (chunk < chunks.first || chunk >= chunks.last) {
          if (chunks_ == 1) clear_dq(b, t0, rows, h);
          continue;
        }
        typename BackwardTile<A>::Queries queries{
            .rows = rows,
            .q = right_rows(at(p_.q, b, t0, h), p_.q.row_stride, rows, p_.dim, q_buffer),
            .dout = right_rows(at(p_.dout, b, t0, h), p_.dout.row_stride, rows, p_.value_dim,
                               dout_buffer),
            .lse = static_cast<const A*>(p_.lse) + statistics_at(b, t0, h),
            .delta = delta_buffer,
            .dq = dq,
            .dq_empty = true};
        if (chunks_ == 1) {
          compute_delta(b, t0, rows, h, delta_buffer);
        } else {
          queries.delta = delta_.data<A>() + statistics_at(b, t0, h);
        }
        const auto range = p_.visible_keys(t0, t0 + rows);
        prefetch(b, h, tile, kv_head, chunk, gradients.prefetch());
        for (int64_t j = 0; j < count; j += kTileKeys) {
          const int64_t n = std::min(kTileKeys, count - j);
          if (s0 + j >= range.last || s0 + j + n <= range.first) continue;
          typename BackwardTile<A>::Bounds bounds;
          const bool hides = fill_bounds(t0, rows, s0 + j, n, bounds);
          gradients.accumulate(queries,
                               {.count = n,
                                .k = {k.data + j * k.stride, k.stride},
                                .k_columns = k_columns + j,
                                .v_columns = v_columns + j,
                                .columns_stride = chunk_keys_,
                                .dk = dk + j * dim_width_,
                                .dv = dv + j * value_width_},
                               hides ? &bounds : nullptr);
          queries.dq_empty = false;
        }
        if (chunks_ == 1) {
          add_dq(b, t0, rows, h, dq, true);
        } else {
          const int64_t turn = (b * p_.heads + h) * tiles_ + tile;
          turns_.wait(turn, chunk);
          add_dq(b, t0, rows, h, dq, chunk == chunks.first);
          turns_.pass(turn, chunk + 1);
        }
      }
    }
    for (int64_t j = 0; j < count; ++j) {
      T* const dk_row = const_cast<T*>(at(p_.dk, b, s0 + j, kv_head));
      T* const dv_row = const_cast<T*>(at(p_.dv, b, s0 + j, kv_head));
      const A scale = static_cast<A>(p_.scale);
      for (int64_t d = 0; d < p_.dim; ++d)
        dk_row[d] = static_cast<T>(dk[j * dim_width_ + d] * scale);
      for (int64_t e = 0; e < p_.value_dim; ++e)
        dv_row[e] = static_cast<T>(dv[j * value_width_ + e]);
    }
  }

  /// Asks for what comes after this tile's products: its dq, and the next tile of queries or the
  /// rows of dk and dv.
  void prefetch(int64_t b, int64_t h, int64_t tile, int64_t kv_head, int64_t chunk,
                PrefetchQueue& queue) const {
    queue.clear();
    const int64_t t0 = tile * kTileRows;
    const int64_t rows = std::min(kTileRows, p_.queries - t0);
    queue.add(dq_row(b, t0, h), p_.dq_sum.row_stride, rows, p_.dim, /*write=*/true);
    const bool last_of_head = tile + 1 == tiles_;
    const bool last = last_of_head && h + 1 == (kv_head + 1) * group_;
    if (last) {
      const int64_t s0 = chunk * chunk_keys_;
      const int64_t count = std::min(chunk_keys_, p_.keys - s0);
      queue.add(at(p_.dk, b, s0, kv_head), p_.dk.row_stride, count, p_.dim, /*write=*/true);
      queue.add(at(p_.dv, b, s0, kv_head), p_.dv.row_stride, count, p_.value_dim, /*write=*/true);
    } else {
      int64_t next = last_of_head ? 0 : tile + 1;
      if (last_of_head) {
        while (next + 1 < tiles_ && chunks_of(next).last <= chunk) ++next;
      }
      const int64_t next_h = last_of_head ? h + 1 : h;
      const int64_t next_rows = std::min(kTileRows, p_.queries - next * kTileRows);
      const auto ask = [&](const HeadsView& view, int64_t columns) {
        queue.add(at(view, b, next * kTileRows, next_h), view.row_stride, next_rows, columns);
      };
      ask(p_.q, p_.dim);
      ask(p_.dout, p_.value_dim);
      if (chunks_ == 1) ask(p_.o, p_.value_dim);
    }
    queue.spread(BackwardTile<A>::kPrefetchSteps);
  }

  bool fill_bounds(int64_t t0, int64_t rows, int64_t s, int64_t count,
                   typename BackwardTile<A>::Bounds& bounds) const {
    // Later rows see later keys.
    if (p_.visible_keys(t0 + rows - 1, t0 + rows).first <= s &&
        p_.visible_keys(t0, t0 + 1).last >= s + count) {
      return false;
    }
    for (int64_t r = 0; r < rows; ++r) {
      const auto range = p_.visible_keys(t0 + r, t0 + r + 1);
      bounds.first[r] = std::clamp<int64_t>(range.first - s, 0, count);
      bounds.last[r] = std::clamp<int64_t>(range.last - s, 0, count);
    }
    return true;
  }

  void add_dq(int64_t b, int64_t t0, int64_t rows, int64_t h, const A* dq, bool first) const {
    const A scale = static_cast<A>(p_.scale);
    for (int64_t r = 0; r < rows; ++r) {
      A* const sum = dq_row(b, t0 + r, h);
      const A* const addend = dq + r * dim_width_;
      if (first) {
        for (int64_t d = 0; d < p_.dim; ++d) sum[d] = addend[d] * scale;
      } else {
        for (int64_t d = 0; d < p_.dim; ++d) sum[d] += addend[d] * scale;
      }
    }
  }

  const FlashAttentionBackwardParams& p_;
  int64_t group_, tiles_, chunk_keys_, chunks_, dim_width_, value_width_;
  Turnstile turns_;
  Tensor delta_;
};

}  // namespace

void flash_attention_backward_cpu(const FlashAttentionBackwardParams& params, Stream /*stream*/) {
  dispatch_floating(params.dtype, "flash_attention_backward",
                    [&]<class T>() { Backward<T>(params).run(); });
}

}  // namespace weft::attention
