// Backward of attention over listed key blocks on the CPU. A task is one chunk of key blocks of one
// key head: it meets, in ascending order, all tiles that list some of them, and so owns its dk and
// dv, which stay in the second-level cache. A tile's dq gets one sum from each chunk that it lists;
// the chunks add theirs in ascending order. Tasks start in that same order.
#include <algorithm>
#include <vector>

#include "weft/tensor/dispatch.h"
#include "weft/tensor/parallel.h"

#include "kernels/prefetch.h"
#include "kernels/selected_attention_kernels.h"
#include "kernels/selected_tile.h"
#include "kernels/turnstile.h"

namespace weft::attention {
namespace {

template <class T>
class SelectedBackward {
  using A = accumulator_t<T>;
  using V = simd::Vec<A>;
  static constexpr int64_t kLanes = simd::kLanes<A>;
  static constexpr A kLog2e = A(1.4426950408889634074);
  /// Rows of a tile that meet a batch of keys together, and vectors of keys of a batch.
  static constexpr int64_t kRows = 32;
  static constexpr int64_t kBatch = 256 / kLanes;

  /// A tile that lists blocks of a chunk: which of its list, and whether that is its first chunk,
  /// second and so on.
  struct Visit {
    int32_t tile, order;
    int32_t first, count;
  };

  /// The blocks of a chunk, packed.
  struct Chunk {
    int64_t first, last;  // blocks
    A* k_columns;         // [vector][dim][kLanes]
    A* v_columns;         // [vector][value dim][kLanes]
    A* k_rows;            // [vector][kLanes][dim width]
    A* dk;                // [vector][kLanes][dim width]
    A* dv;                // [vector][kLanes][value width]
  };

 public:
  explicit SelectedBackward(const SelectedAttentionBackwardParams& params)
      : p_(params),
        shape_(params.selection.shape),
        vectors_(shape_),
        tiles_(shape_.tiles()),
        pairs_(params.batch * params.kv_heads),
        heads_per_list_(params.kv_heads / shape_.groups),
        dim_width_(padded<A>(params.dim)),
        value_width_(padded<A>(params.value_dim)),
        chunk_blocks_(choose_chunk()),
        chunks_((shape_.blocks() + chunk_blocks_ - 1) / chunk_blocks_),
        turns_(pairs_ * tiles_),
        delta_(empty({params.batch, params.heads, params.queries}, dtype_of<A>)) {}

  void run() {
    prepare();
    find_visits();
    const int64_t chunk_keys = chunk_blocks_ * vectors_.per_block * kLanes;
    const int64_t per_key = p_.dim + p_.value_dim + 2 * dim_width_ + value_width_;
    const int64_t per_row = 2 * dim_width_ + value_width_ + 2 * kBatch * kLanes;
    ThreadScratch<A> scratch(num_threads(), chunk_keys * per_key + kRows * per_row);
    parallel_for_dynamic(0, pairs_ * chunks_, 1, [&](int64_t begin, int64_t end, int thread) {
      for (int64_t task = begin; task < end; ++task)
        run_chunk(task % pairs_, task / pairs_, scratch.of(thread));
    });
    if constexpr (!std::is_same_v<T, A>) convert_dq();
  }

 private:
  /// Blocks of one task. More blocks share the reading of a tile's rows, as long as what belongs to
  /// them fits in the second-level cache; fewer give more tasks. Depends on the problem alone, as
  /// do the bits of dq.
  int64_t choose_chunk() const {
    constexpr int64_t kCacheElements = (1 << 20) / sizeof(A);
    const int64_t block_keys = vectors_.per_block * kLanes;
    const int64_t per_block = block_keys * (3 * p_.dim + 2 * p_.value_dim);
    int64_t blocks = std::max<int64_t>(kCacheElements / per_block, 1);
    while (blocks > 1 && blocks * block_keys > 128 &&
           pairs_ * ((shape_.blocks() + blocks - 1) / blocks) < 32) {
      blocks /= 2;
    }
    return blocks;
  }

  /// The blocks that tile's list names and some row of it sees.
  SelectionView::List seen_blocks(int64_t b, int64_t kv_head, int64_t tile) const {
    SelectionView::List list = p_.selection.list(b, kv_head / heads_per_list_, tile);
    const int64_t end = p_.position + shape_.last_query(tile);
    while (list.last > list.first && list.last[-1] * shape_.key_block >= end) --list.last;
    return list;
  }

  A* dq_row(int64_t b, int64_t t, int64_t h) const { return row_at<A>(p_.dq_sum, b, t, h); }

  /// delta = <dout, o> of all rows, and open turnstiles; clears dq where no chunk will come.
  void prepare() {
    A* const delta = delta_.data<A>();
    parallel_for(0, pairs_ * tiles_, 16, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t b = i / tiles_ / p_.kv_heads, kv_head = i / tiles_ % p_.kv_heads;
        const SelectedRows rows(p_, shape_, b, kv_head, i % tiles_);
        const auto list = seen_blocks(b, kv_head, i % tiles_);
        const bool empty = list.first == list.last;
        turns_.open(i, 0);
        for (int64_t r = 0; r < rows.count(); ++r) {
          const int64_t t = rows.query(r), h = rows.head(r);
          if (empty) std::fill_n(dq_row(b, t, h), p_.dim, A(0));
          delta[rows.statistics_at(p_, r)] =
              dot(row_at<const T>(p_.dout, b, t, h), row_at<const T>(p_.o, b, t, h), p_.value_dim);
        }
      }
    });
  }

  void find_visits() {
    visits_.resize(static_cast<size_t>(p_.batch * shape_.groups));
    parallel_for(0, p_.batch * shape_.groups, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        Visits& visits = visits_[static_cast<size_t>(i)];
        visits.starts.assign(static_cast<size_t>(chunks_ + 1), 0);
        const auto for_each = [&](auto&& body) {
          for (int64_t tile = 0; tile < tiles_; ++tile) {
            const auto list =
                seen_blocks(i / shape_.groups, i % shape_.groups * heads_per_list_, tile);
            int32_t order = 0;
            for (const int32_t* block = list.first; block < list.last; ++order) {
              const int64_t chunk = *block / chunk_blocks_;
              const int32_t* after = block + 1;
              while (after < list.last && *after < (chunk + 1) * chunk_blocks_) ++after;
              body(chunk, Visit{static_cast<int32_t>(tile), order,
                                static_cast<int32_t>(block - list.first),
                                static_cast<int32_t>(after - block)});
              block = after;
            }
          }
        };
        for_each([&](int64_t chunk, const Visit&) { ++visits.starts[chunk + 1]; });
        for (int64_t chunk = 0; chunk < chunks_; ++chunk)
          visits.starts[chunk + 1] += visits.starts[chunk];
        visits.all.resize(static_cast<size_t>(visits.starts[chunks_]));
        std::vector<int64_t> next = visits.starts;
        for_each([&](int64_t chunk, const Visit& visit) { visits.all[next[chunk]++] = visit; });
      }
    });
  }

  static A dot(const T* a, const T* b, int64_t count) {
    V sum{};
    for (int64_t i = 0; i < count; i += kLanes) {
      sum += simd::load_converted<A>(a + i, count - i) * simd::load_converted<A>(b + i, count - i);
    }
    return sum_of_lanes<A>(sum);
  }

  void run_chunk(int64_t pair, int64_t index, A* scratch) {
    const int64_t b = pair / p_.kv_heads, kv_head = pair % p_.kv_heads;
    const auto take = [&](int64_t elements) {
      A* const piece = scratch;
      scratch += elements;
      return piece;
    };
    const int64_t keys = chunk_blocks_ * vectors_.per_block * kLanes;
    const Chunk chunk{.first = index * chunk_blocks_,
                      .last = std::min((index + 1) * chunk_blocks_, shape_.blocks()),
                      .k_columns = take(keys * p_.dim),
                      .v_columns = take(keys * p_.value_dim),
                      .k_rows = take(keys * dim_width_),
                      .dk = take(keys * dim_width_),
                      .dv = take(keys * value_width_)};
    pack(b, kv_head, chunk);
    const Visits& visits = visits_[b * shape_.groups + kv_head / heads_per_list_];
    const Visit* const first = visits.all.data() + visits.starts[index];
    const Visit* const last = visits.all.data() + visits.starts[index + 1];
    std::vector<KeyVector<A>> vectors;
    PrefetchQueue queue;
    for (const Visit* visit = first; visit < last; ++visit) {
      if (visit + 1 < last) ask_for_rows(b, kv_head, visit[1].tile, steps_of(visit->count), queue);
      meet_tile(b, kv_head, *visit, chunk, vectors, queue, scratch);
    }
    unpack(b, kv_head, chunk);
  }

  void pack(int64_t b, int64_t kv_head, const Chunk& chunk) const {
    for_each_vector(chunk, [&](int64_t first, int64_t n, int64_t i) {
      pack_transposed([&](int64_t j) { return row_at<const T>(p_.k, b, first + j, kv_head); }, n,
                      p_.dim, chunk.k_columns + i * p_.dim * kLanes, kLanes);
      pack_transposed([&](int64_t j) { return row_at<const T>(p_.v, b, first + j, kv_head); }, n,
                      p_.value_dim, chunk.v_columns + i * p_.value_dim * kLanes, kLanes);
      pack_rows(row_at<const T>(p_.k, b, first, kv_head), p_.k.row_stride, n, p_.dim,
                chunk.k_rows + i * kLanes * dim_width_, dim_width_);
      std::fill_n(chunk.dk + i * kLanes * dim_width_, kLanes * dim_width_, A(0));
      std::fill_n(chunk.dv + i * kLanes * value_width_, kLanes * value_width_, A(0));
    });
  }

  void unpack(int64_t b, int64_t kv_head, const Chunk& chunk) const {
    const A scale = static_cast<A>(p_.scale);
    for_each_vector(chunk, [&](int64_t first, int64_t n, int64_t i) {
      for (int64_t j = 0; j < n; ++j) {
        T* const dk = row_at<T>(p_.dk, b, first + j, kv_head);
        T* const dv = row_at<T>(p_.dv, b, first + j, kv_head);
        const A* const dk_sum = chunk.dk + (i * kLanes + j) * dim_width_;
        const A* const dv_sum = chunk.dv + (i * kLanes + j) * value_width_;
        for (int64_t d = 0; d < p_.dim; ++d) dk[d] = static_cast<T>(dk_sum[d] * scale);
        for (int64_t e = 0; e < p_.value_dim; ++e) dv[e] = static_cast<T>(dv_sum[e]);
      }
    });
  }

  /// Calls body(first key, keys, index in the chunk) for the vectors of a chunk that hold keys.
  template <class Body>
  void for_each_vector(const Chunk& chunk, Body&& body) const {
    for (int64_t block = chunk.first; block < chunk.last; ++block) {
      for (int64_t part = 0; part < vectors_.per_block; ++part) {
        const int64_t n = vectors_.keys(block, part);
        if (n > 0) {
          body(vectors_.first_key(block, part), n,
               (block - chunk.first) * vectors_.per_block + part);
        }
      }
    }
  }

  /// Queues the first rows of a tile, which lie apart in memory, for the steps of the tile before.
  void ask_for_rows(int64_t b, int64_t kv_head, int64_t tile, int64_t steps,
                    PrefetchQueue& queue) const {
    const SelectedRows rows(p_, shape_, b, kv_head, tile);
    const int64_t t = rows.first_query, h = rows.head(0);
    const bool one_head = rows.group == 1;
    const int64_t count = std::min(kLaneRows, one_head ? rows.count() : rows.group);
    const auto add = [&](const auto* data, const HeadsView& view, int64_t columns, bool write) {
      queue.add(data, one_head ? view.row_stride : view.head_stride, count, columns, write);
    };
    queue.clear();
    add(row_at<T>(p_.q, b, t, h), p_.q, p_.dim, false);
    add(row_at<T>(p_.dout, b, t, h), p_.dout, p_.value_dim, false);
    add(dq_row(b, t, h), p_.dq_sum, p_.dim, true);
    queue.spread(steps);
  }

  /// Steps of the prefetch queue that some blocks take with a few rows.
  int64_t steps_of(int64_t blocks) const {
    const int64_t vectors = blocks * vectors_.per_block;
    return 2 * vectors + (vectors + 1) / 2;
  }

  void meet_tile(int64_t b, int64_t kv_head, const Visit& visit, const Chunk& chunk,
                 std::vector<KeyVector<A>>& vectors, PrefetchQueue& queue, A* scratch) {
    const int64_t tile = visit.tile;
    const int32_t* const first =
        p_.selection.list(b, kv_head / heads_per_list_, tile).first + visit.first;
    const int32_t* const last = first + visit.count;
    const SelectedRows rows(p_, shape_, b, kv_head, tile);
    const int64_t end = p_.position + rows.last_query;
    vectors.clear();
    for (const int32_t* block = first; block < last; ++block) {
      for (int64_t part = 0; part < vectors_.per_block; ++part) {
        const int64_t key = vectors_.first_key(*block, part);
        const int64_t seen = std::min(vectors_.keys(*block, part), end - key);
        if (seen <= 0) break;
        const int64_t i = (*block - chunk.first) * vectors_.per_block + part;
        vectors.push_back({.k_columns = chunk.k_columns + i * p_.dim * kLanes,
                           .v_columns = chunk.v_columns + i * p_.value_dim * kLanes,
                           .rows = chunk.k_rows + i * kLanes * dim_width_,
                           .first_key = key,
                           .count = seen,
                           .index = i});
      }
    }
    const int64_t gate = (b * p_.kv_heads + kv_head) * tiles_ + tile;
    for (int64_t row = 0; row < rows.count(); row += kRows) {
      const int64_t n = std::min(kRows, rows.count() - row);
      const A* const dq = meet_rows(rows, row, n, vectors, chunk, queue, scratch);
      if (row == 0) turns_.wait(gate, visit.order);
      add_dq(rows, row, n, dq, visit.order == 0);
    }
    turns_.pass(gate, visit.order + 1);
  }

  /// Adds to the chunk's dk and dv; gives dq [rows][dim width].
  const A* meet_rows(const SelectedRows& tile, int64_t row0, int64_t rows,
                     const std::vector<KeyVector<A>>& vectors, const Chunk& chunk,
                     PrefetchQueue& queue, A* scratch) const {
    constexpr int64_t kWidth = kBatch * kLanes;
    A* const p = scratch;
    A* const ds = p + kRows * kWidth;
    A* const dq = ds + kRows * kWidth;
    A* const q_buffer = dq + kRows * dim_width_;
    A* const dout_buffer = q_buffer + kRows * dim_width_;
    const TileRows<A> q = gather_rows<A, T>(tile, p_.q, row0, rows, p_.dim, true, q_buffer);
    const TileRows<A> dout =
        gather_rows<A, T>(tile, p_.dout, row0, rows, p_.value_dim, true, dout_buffer);
    alignas(64) static constexpr A kOnes[kLaneRows] = {1, 1, 1, 1};

    const auto count = static_cast<int64_t>(vectors.size());
    for (int64_t first = 0; first < count; first += kBatch) {
      const int64_t n = std::min(kBatch, count - first);
      const KeyVector<A>* const keys = vectors.data() + first;
      for (int64_t r = 0; r < rows; r += kLaneRows) {
        const int64_t few = std::min(kLaneRows, rows - r);
        const A* const q_rows = q.data + r * q.stride;
        const A* const dout_rows = dout.data + r * dout.stride;
        score_keys_and_values(few, n, p_.dim, q_rows, q.stride, p_.value_dim, dout_rows,
                              dout.stride, keys, p, ds, kWidth, &queue);
        for (int64_t i = 0; i < few; ++i)
          differentiate(tile, row0 + r + i, n, keys, p + i * kWidth, ds + i * kWidth);
        weigh_rows(few, n, keys, dim_width_, dim_width_, ds, kWidth, dq + r * dim_width_,
                   dim_width_, first == 0 ? nullptr : kOnes);
        spread_rows(few, n, keys, p, kWidth, dout_rows, dout.stride, value_width_, chunk.dv,
                    value_width_, &queue);
        spread_rows(few, n, keys, ds, kWidth, q_rows, q.stride, dim_width_, chunk.dk, dim_width_,
                    &queue);
      }
    }
    return dq;
  }

  /// Turns a row of scores and of <dout, v> into P and dS.
  void differentiate(const SelectedRows& tile, int64_t row, int64_t count, const KeyVector<A>* keys,
                     A* p, A* ds) const {
    const int64_t statistics = tile.statistics_at(p_, row);
    const A c = static_cast<A>(p_.scale) * kLog2e;
    const A shift = static_cast<const A*>(p_.lse)[statistics] * kLog2e;
    const A delta = delta_.data<A>()[statistics];
    const int64_t end = p_.position + tile.query(row) + 1;
    for (int64_t i = 0; i < count; ++i) {
      A* const p_lanes = p + i * kLanes;
      A* const ds_lanes = ds + i * kLanes;
      const V probability = simd::exp2(simd::load(p_lanes) * c - shift);
      simd::store(p_lanes, probability);
      simd::store(ds_lanes, probability * (simd::load(ds_lanes) - delta));
      const int64_t seen = std::min(end - keys[i].first_key, keys[i].count);
      if (seen >= kLanes) continue;
      hide_lanes(p_lanes, seen, A(0));
      hide_lanes(ds_lanes, seen, A(0));
    }
  }

  void add_dq(const SelectedRows& tile, int64_t row0, int64_t rows, const A* dq, bool first) const {
    const A scale = static_cast<A>(p_.scale);
    for (int64_t r = 0; r < rows; ++r) {
      A* const sum = dq_row(tile.batch, tile.query(row0 + r), tile.head(row0 + r));
      const A* const addend = dq + r * dim_width_;
      if (first) {
        for (int64_t d = 0; d < p_.dim; ++d) sum[d] = addend[d] * scale;
      } else {
        for (int64_t d = 0; d < p_.dim; ++d) sum[d] += addend[d] * scale;
      }
    }
  }

  void convert_dq() const {
    parallel_for(0, p_.batch * p_.queries, 16, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t b = i / p_.queries, t = i % p_.queries;
        for (int64_t h = 0; h < p_.heads; ++h) {
          const A* const sum = dq_row(b, t, h);
          T* const dq = row_at<T>(p_.dq, b, t, h);
          for (int64_t d = 0; d < p_.dim; ++d) dq[d] = static_cast<T>(sum[d]);
        }
      }
    });
  }

  const SelectedAttentionBackwardParams& p_;
  SelectionShape shape_;
  BlockVectors<A> vectors_;
  int64_t tiles_, pairs_, heads_per_list_, dim_width_, value_width_, chunk_blocks_, chunks_;
  /// By batch entry and group: the visits of its chunks, one chunk behind the other.
  struct Visits {
    std::vector<int64_t> starts;  // [chunks + 1]
    std::vector<Visit> all;
  };
  std::vector<Visits> visits_;
  Turnstile turns_;
  Tensor delta_;
};

}  // namespace

void selected_attention_backward_cpu(const SelectedAttentionBackwardParams& params,
                                     Stream /*stream*/) {
  dispatch_floating(params.dtype, "selected_attention_backward",
                    [&]<class T>() { SelectedBackward<T>(params).run(); });
}

}  // namespace weft::attention
