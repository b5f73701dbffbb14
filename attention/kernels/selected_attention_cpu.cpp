// Forward of attention over listed key blocks on the CPU. Keys are packed once per call, a vector
// of neighbouring keys dim by dim, so that the few rows of a tile meet many keys at a time wherever
// the lists point to. A task is a run of tiles of one key head.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "weft/tensor/dispatch.h"
#include "weft/tensor/parallel.h"

#include "kernels/selected_attention_kernels.h"
#include "kernels/selected_tile.h"
#include "kernels/soften.h"
#include "kernels/split_attention_kernels.h"

namespace weft::attention {
namespace {

template <class T>
class SelectedForward {
  using A = accumulator_t<T>;
  static constexpr int64_t kLanes = simd::kLanes<A>;
  static constexpr A kHidden = -std::numeric_limits<A>::infinity();
  /// Rows of a tile that absorb a chunk of keys together.
  static constexpr int64_t kRows = 32;

 public:
  explicit SelectedForward(const SelectedAttentionParams& params)
      : p_(params),
        shape_(params.selection.shape),
        vectors_(shape_),
        packed_vectors_(shape_.blocks() * vectors_.per_block),
        value_width_(padded<A>(params.value_dim)),
        chunk_(shape_.query_tile * (params.heads / params.kv_heads) <= kLaneRows ? 512 / kLanes
                                                                                 : 128 / kLanes) {}

  void run() {
    const int64_t pairs = p_.batch * p_.kv_heads;
    pack(pairs);
    const int64_t tiles = shape_.tiles();
    ThreadScratch<A> scratch(num_threads(),
                             kRows * (padded<A>(p_.dim) + chunk_ * kLanes + value_width_ + 3));
    parallel_for_dynamic(0, pairs * tiles, 16, [&](int64_t begin, int64_t end, int thread) {
      Lists lists;
      list_keys(begin, lists.next);
      for (int64_t task = begin; task < end; ++task) {
        lists.keys.swap(lists.next);
        lists.next.clear();
        if (task + 1 < end) list_keys(task + 1, lists.next);
        run_tile(task, lists, scratch.of(thread));
      }
    });
  }

 private:
  /// The vectors of keys of a tile and of the one after it, and the pieces of memory that they lie
  /// in, in the order of their use.
  struct Lists {
    std::vector<KeyVector<A>> keys, next;
    std::vector<const A*> pieces;
  };

  /// K as [pair][vector][dim][kLanes], V as [pair][vector][kLanes][value width].
  void pack(int64_t pairs) {
    k_ = empty({pairs, packed_vectors_, p_.dim, kLanes}, dtype_of<A>);
    v_ = empty({pairs, packed_vectors_, kLanes, value_width_}, dtype_of<A>);
    A *const k = k_.data<A>(), *const v = v_.data<A>();
    parallel_for(0, pairs * packed_vectors_, 64, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t pair = i / packed_vectors_, vector = i % packed_vectors_;
        const int64_t b = pair / p_.kv_heads, head = pair % p_.kv_heads;
        const int64_t block = vector / vectors_.per_block, part = vector % vectors_.per_block;
        const int64_t first = vectors_.first_key(block, part), n = vectors_.keys(block, part);
        if (n == 0) continue;  // never read
        pack_transposed([&](int64_t j) { return row_at<const T>(p_.k, b, first + j, head); }, n,
                        p_.dim, k + i * p_.dim * kLanes, kLanes);
        pack_rows(row_at<const T>(p_.v, b, first, head), p_.v.row_stride, n, p_.value_dim,
                  v + i * kLanes * value_width_, value_width_);
      }
    });
  }

  SelectedRows rows_of(int64_t task) const {
    const int64_t tiles = shape_.tiles();
    return {p_, shape_, task / tiles / p_.kv_heads, task / tiles % p_.kv_heads, task % tiles};
  }

  /// The vectors of keys that some row of a tile sees.
  void list_keys(int64_t task, std::vector<KeyVector<A>>& keys) const {
    const SelectedRows rows = rows_of(task);
    const int64_t heads_per_list = p_.kv_heads / shape_.groups;
    const auto list =
        p_.selection.list(rows.batch, rows.kv_head / heads_per_list, task % shape_.tiles());
    const int64_t pair = rows.batch * p_.kv_heads + rows.kv_head;
    const A* const k = k_.data<A>() + pair * packed_vectors_ * p_.dim * kLanes;
    const A* const v = v_.data<A>() + pair * packed_vectors_ * kLanes * value_width_;
    const int64_t end = p_.position + rows.last_query;  // of the keys that the last row sees
    for (const int32_t* block = list.first; block < list.last; ++block) {
      for (int64_t part = 0; part < vectors_.per_block; ++part) {
        const int64_t first = vectors_.first_key(*block, part);
        const int64_t seen = std::min(vectors_.keys(*block, part), end - first);
        if (seen <= 0) break;
        const int64_t index = *block * vectors_.per_block + part;
        keys.push_back({.k_columns = k + index * p_.dim * kLanes,
                        .v_columns = nullptr,
                        .rows = v + index * kLanes * value_width_,
                        .first_key = first,
                        .count = seen,
                        .index = index});
      }
    }
  }

  void run_tile(int64_t task, Lists& lists, A* scratch) const {
    const SelectedRows rows = rows_of(task);
    for (int64_t row = 0; row < rows.count(); row += kRows)
      run_rows(rows, row, std::min(kRows, rows.count() - row), lists, scratch);
  }

  /// The memory that a chunk of keys lies in, in the order of its use, and what comes after it:
  /// entry i + kLaneVectors is asked for while entry i is read.
  void list_pieces(const Lists& lists, int64_t first, int64_t n,
                   std::vector<const A*>& pieces) const {
    pieces.clear();
    for (int64_t i = 0; i < n; ++i) pieces.push_back(lists.keys[first + i].k_columns);
    for (int64_t i = 0; i < n; ++i) pieces.push_back(lists.keys[first + i].rows);
    const auto count = static_cast<int64_t>(lists.keys.size());
    const std::vector<KeyVector<A>>& after = first + n < count ? lists.keys : lists.next;
    const int64_t start = first + n < count ? first + n : 0;
    for (int64_t i = 0; i < detail::kLaneVectors; ++i) {
      const bool known = start + i < static_cast<int64_t>(after.size());
      pieces.push_back(known ? after[start + i].k_columns : pieces.front());
    }
  }

  void run_rows(const SelectedRows& tile, int64_t row0, int64_t rows, Lists& lists,
                A* scratch) const {
    const int64_t ld = chunk_ * kLanes;
    A* const scores = scratch;
    A* const output = scores + kRows * ld;
    A* const largest = output + kRows * value_width_;
    A* const sum = largest + kRows;
    A* const factor = sum + kRows;
    const TileRows<A> q = gather_rows<A, T>(tile, p_.q, row0, rows, p_.dim, false, factor + kRows);
    std::fill_n(largest, rows, kHidden);
    const A c = static_cast<A>(p_.scale * 1.4426950408889634074);
    std::fill_n(sum, rows, A(0));
    const auto count = static_cast<int64_t>(lists.keys.size());
    for (int64_t first = 0; first < count; first += chunk_) {
      const int64_t n = std::min(chunk_, count - first);
      const KeyVector<A>* const chunk = lists.keys.data() + first;
      list_pieces(lists, first, n, lists.pieces);
      const A* const* const ahead = lists.pieces.data() + detail::kLaneVectors;
      // A few vectors of keys stay in the first-level cache for all rows.
      for (int64_t i = 0; i < n; i += detail::kLaneVectors) {
        for (int64_t r = 0; r < rows; r += kLaneRows) {
          score_keys(std::min(kLaneRows, rows - r), std::min<int64_t>(detail::kLaneVectors, n - i),
                     p_.dim, q.data + r * q.stride, q.stride, chunk + i,
                     scores + r * ld + i * kLanes, ld, r == 0 ? ahead + i : nullptr);
        }
      }
      for (int64_t i = 0; i < n; ++i) {
        const int64_t seen_by_first = p_.position + tile.query(row0) + 1 - chunk[i].first_key;
        if (chunk[i].count == kLanes && seen_by_first >= kLanes) continue;
        for (int64_t r = 0; r < rows; ++r) {
          const int64_t seen = p_.position + tile.query(row0 + r) + 1 - chunk[i].first_key;
          hide_lanes(scores + r * ld + i * kLanes, std::min(seen, chunk[i].count), kHidden);
        }
      }
      for (int64_t r = 0; r < rows; ++r)
        factor[r] = soften(scores + r * ld, n, c, largest[r], sum[r]);
      for (int64_t r = 0; r < rows; r += kLaneRows) {
        weigh_rows(std::min(kLaneRows, rows - r), n, chunk, value_width_, value_width_,
                   scores + r * ld, ld, output + r * value_width_, value_width_,
                   first == 0 ? nullptr : factor + r, r == 0 ? ahead + n : nullptr);
      }
    }
    for (int64_t r = 0; r < rows; ++r) {
      T* const o = row_at<T>(p_.o, tile.batch, tile.query(row0 + r), tile.head(row0 + r));
      A* const lse = static_cast<A*>(p_.lse) + tile.statistics_at(p_, row0 + r);
      if (sum[r] == 0) {
        std::fill_n(o, p_.value_dim, T(A(0)));
        *lse = std::numeric_limits<A>::infinity();
      } else {
        const A normaliser = 1 / sum[r];
        for (int64_t e = 0; e < p_.value_dim; ++e)
          o[e] = static_cast<T>(output[r * value_width_ + e] * normaliser);
        *lse = largest[r] * static_cast<A>(p_.scale) + std::log(sum[r]);
      }
    }
  }

  const SelectedAttentionParams& p_;
  SelectionShape shape_;
  BlockVectors<A> vectors_;
  int64_t packed_vectors_, value_width_;
  int64_t chunk_;  // vectors of keys whose scores are held at a time
  Tensor k_, v_;
};

}  // namespace

void selected_attention_forward_cpu(const SelectedAttentionParams& params, Stream stream) {
  if (has_few_rows(params)) {
    SplitAttentionParams split;
    static_cast<FlashAttentionParams&>(split) = params;
    split.selected = true;
    split.selection = params.selection;
    split_attention_forward_cpu(split, stream);
    return;
  }
  dispatch_floating(params.dtype, "selected_attention",
                    [&]<class T>() { SelectedForward<T>(params).run(); });
}

}  // namespace weft::attention
