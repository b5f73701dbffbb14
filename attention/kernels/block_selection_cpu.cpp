// Scores compressed keys against the leaders of query runs and keeps the best blocks. A task is a
// tile of leaders of one (batch, group). Leaders lie along vector lanes from the scores to the
// comparison with the worst block kept, so that sums over heads, weights of overlapping keys and
// the search need no operation across a vector.
#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <span>
#include <type_traits>

#include "weft/tensor/dispatch.h"
#include "weft/tensor/parallel.h"

#include "kernels/block_selection_kernels.h"
#include "kernels/simd.h"
#include "kernels/tile_memory.h"
#include "kernels/tile_product.h"

namespace weft::attention {
namespace {

/// The best blocks of each leader of a tile, found while block after block comes by in ascending
/// order: of equal ones the first stays.
template <class A>
class BestBlocks {
 public:
  static constexpr int64_t kLanes = simd::kLanes<A>;

  static int64_t score_elements(int64_t leaders, int64_t capacity) {
    return leaders * (capacity + 1);
  }
  static int64_t index_elements(int64_t leaders, int64_t capacity) { return leaders * capacity; }

  BestBlocks(A* scores, int32_t* indices, int64_t leaders, int64_t capacity)
      : capacity_(capacity), threshold_(scores), scores_(scores + leaders), indices_(indices) {}

  /// Leader `lane` will keep `count` of the blocks below `end`.
  void start(int64_t lane, int64_t count, int64_t end) {
    wanted_[lane] = count;
    end_[lane] = end;
    found_[lane] = 0;
    threshold_[lane] =
        count > 0 ? -std::numeric_limits<A>::infinity() : std::numeric_limits<A>::infinity();
  }

  /// Blocks [first, last), with the importance of block first + j for leader i at
  /// rows[j * stride + i].
  void offer(int64_t first, int64_t last, const A* rows, int64_t stride, int64_t leaders) {
    for (int64_t block = first; block < last; block += kBatch) {
      const int64_t count = std::min(kBatch, last - block);
      for (int64_t lane = 0; lane < leaders; lane += kLanes)
        offer_batch(block, count, rows + (block - first) * stride, stride, lane, leaders);
    }
  }

  /// The blocks from `next` on have importance 0. Leaves the blocks of `lane` in ascending order.
  std::span<const int32_t> finish(int64_t lane, int64_t next) {
    for (; found_[lane] < wanted_[lane] && next < end_[lane]; ++next) insert(lane, A(0), next);
    int32_t* const indices = indices_ + lane * capacity_;
    std::sort(indices, indices + found_[lane]);
    return {indices, static_cast<size_t>(found_[lane])};
  }

 private:
  static constexpr int64_t kBatch = 32;  // one bit a block

  void offer_batch(int64_t block, int64_t count, const A* rows, int64_t stride, int64_t lane,
                   int64_t leaders) {
    using Mask = decltype(simd::Vec<A>{} <= simd::Vec<A>{});
    using Bits = std::remove_reference_t<decltype(Mask{}[0])>;
    const simd::Vec<A> threshold = simd::load(threshold_ + lane);
    Mask better{};
    for (int64_t j = 0; j < count; ++j) {
      // Also true for NaN, so that every list gets its length.
      const Mask hit = ~(simd::load(rows + j * stride + lane) <= threshold);
      better |= hit & static_cast<Bits>(uint32_t{1} << j);
    }
    for (int64_t i = 0; i < kLanes && lane + i < leaders; ++i) {
      const int64_t below = std::clamp<int64_t>(end_[lane + i] - block, 0, kBatch);
      auto bits =
          static_cast<uint32_t>(better[i]) & static_cast<uint32_t>((uint64_t{1} << below) - 1);
      for (; bits != 0; bits &= bits - 1) {
        const int j = std::countr_zero(bits);
        insert(lane + i, rows[j * stride + lane + i], block + j);
      }
    }
  }

  void insert(int64_t lane, A score, int64_t block) {
    A* const scores = scores_ + lane * capacity_;
    int32_t* const indices = indices_ + lane * capacity_;
    const int64_t wanted = wanted_[lane];
    int64_t at = found_[lane];
    if (at < wanted) {
      ++found_[lane];
    } else {
      --at;
      if (!(score > scores[at])) return;
    }
    for (; at > 0 && score > scores[at - 1]; --at) {
      scores[at] = scores[at - 1];
      indices[at] = indices[at - 1];
    }
    scores[at] = score;
    indices[at] = static_cast<int32_t>(block);
    if (found_[lane] == wanted) threshold_[lane] = scores[wanted - 1];
  }

  int64_t capacity_;
  A* threshold_;  // [leaders], a block must exceed it
  A* scores_;     // [leaders][capacity], descending
  int32_t* indices_;
  int64_t wanted_[kTileRows], end_[kTileRows], found_[kTileRows];
};

template <class T>
class BlockSelector {
  using A = accumulator_t<T>;
  using V = simd::Vec<A>;
  static constexpr int64_t kLanes = simd::kLanes<A>;

 public:
  explicit BlockSelector(const BlockSelectionParams& params)
      : p_(params),
        heads_(params.heads / params.groups),
        leaders_(std::max<int64_t>(kTileRows / heads_ / kLanes, 1) * kLanes),
        columns_(heads_ * leaders_),
        tile_keys_(std::clamp<int64_t>(kTileRows * kTileKeys / columns_, 16, kTileKeys)),
        chunks_(params.compression_block / params.compression_stride),
        block_chunks_(params.key_block / params.compression_stride),
        scored_(params.tiles - params.first_tile),
        tiles_((scored_ + leaders_ - 1) / leaders_) {}

  void run() {
    const int64_t pairs = p_.batch * p_.groups;
    ThreadScratch<A> scratch(num_threads(), scratch_elements());
    ThreadScratch<int32_t> indices(num_threads(),
                                   BestBlocks<A>::index_elements(leaders_, p_.count));
    // Tiles of one group follow each other where there are enough groups; see the forward of flash
    // attention.
    const bool by_pair = pairs >= 4 * num_threads();
    const int64_t grain = by_pair ? tiles_ : 1;
    parallel_for_dynamic(0, pairs * tiles_, grain, [&](int64_t begin, int64_t end, int thread) {
      Scratch memory(*this, scratch.of(thread));
      BestBlocks<A> best(memory.best, indices.of(thread), leaders_, p_.count);
      for (int64_t task = begin; task < end; ++task) {
        const int64_t pair = by_pair ? task / tiles_ : task % pairs;
        const int64_t tile = tiles_ - 1 - (by_pair ? task % tiles_ : task / pairs);
        run_tile(pair, tile, memory, best);
      }
    });
  }

 private:
  struct Scratch {
    Scratch(const BlockSelector& s, A* memory)
        : queries(memory),
          keys(queries + s.p_.dim * s.columns_),
          scores(keys + s.tile_keys_ * padded<A>(s.p_.dim)),
          lse(scores + s.tile_keys_ * s.columns_),
          sums(lse + s.columns_),
          importance(sums + s.tile_keys_ * s.leaders_),
          seen(importance + s.block_rows() * s.leaders_),
          best(seen + s.leaders_) {}
    A* queries;     // [dim][columns]
    A* keys;        // [tile_keys][padded dim]
    A* scores;      // [tile_keys][columns]
    A* lse;         // [columns], by log2(e)
    A* sums;        // [tile_keys][leaders], over heads
    A* importance;  // [block_rows][leaders]
    A* seen;        // [leaders]: keys, counted from the tile's first
    A* best;
  };

  /// Blocks that a tile of keys may touch, or that the one before left unfinished.
  int64_t block_rows() const { return tile_keys_ / block_chunks_ + 3; }

  int64_t scratch_elements() const {
    return columns_ * (p_.dim + tile_keys_ + 1) + tile_keys_ * padded<A>(p_.dim) +
           leaders_ * (tile_keys_ + block_rows() + 1) +
           BestBlocks<A>::score_elements(leaders_, p_.count);
  }

  const T* at(const HeadsView& view, int64_t b, int64_t row, int64_t head) const {
    return static_cast<const T*>(view.data) + b * view.batch_stride + row * view.row_stride +
           head * view.head_stride;
  }

  /// Leaders of one tile, and how they lie in its columns: that of leader i and head h is
  /// h * stride + i. Few leaders lie densely, so that a decode step computes few columns.
  struct Tile {
    int64_t batch, group, first, leaders, stride, width;
    int64_t lanes;               // leaders rounded up to whole vectors
    int64_t visible[kTileRows];  // compressed keys that each leader sees
  };

  void run_tile(int64_t pair, int64_t index, Scratch& memory, BestBlocks<A>& best) {
    Tile tile;
    tile.batch = pair / p_.groups;
    tile.group = pair % p_.groups;
    tile.first = p_.first_tile + index * leaders_;
    tile.leaders = std::min(leaders_, p_.tiles - tile.first);
    tile.stride = tile.leaders < kLanes ? tile.leaders : padded<A>(tile.leaders);
    tile.width = padded<A>(heads_ * tile.stride);
    tile.lanes = padded<A>(tile.leaders);
    for (int64_t i = 0; i < tile.lanes; ++i) {
      const int64_t leader = tile.first + std::min(i, tile.leaders - 1);
      tile.visible[i] = p_.visible(p_.leader_position(leader));
    }

    int64_t end = 0;  // of the blocks among which some leader has a choice
    for (int64_t i = 0; i < tile.leaders; ++i) {
      const int64_t own = own_block(tile.first + i);
      const bool chooses = own + 1 > p_.count && p_.count > p_.initial + p_.local;
      const int64_t open = chooses ? own + 1 - p_.local : 0;
      best.start(i, chooses ? p_.count - p_.initial - p_.local : 0, open);
      end = std::max(end, open);
    }
    int64_t scored = p_.initial;
    if (end > 0) scored = score_blocks(tile, end, memory, best);
    for (int64_t i = 0; i < tile.leaders; ++i) write(pair, tile.first + i, best.finish(i, scored));
  }

  int64_t own_block(int64_t tile) const { return p_.leader_position(tile) / p_.key_block; }

  /// Offers the blocks from `initial` to `end` that compressed keys touch; returns the first that
  /// is left.
  int64_t score_blocks(const Tile& tile, int64_t end, Scratch& memory, BestBlocks<A>& best) {
    // Keys that reach into block `initial` or beyond it.
    const int64_t first_key = std::max<int64_t>(p_.initial * block_chunks_ - chunks_ + 1, 0);
    const int64_t last_key = std::min(end * block_chunks_, tile.visible[tile.leaders - 1]);
    if (first_key >= last_key) return p_.initial;
    pack(tile, memory);
    int64_t block = first_key / block_chunks_;  // of the first row of importance
    int64_t chunk = first_key % block_chunks_;  // of that block, where the next key begins
    std::fill_n(memory.importance, block_rows() * leaders_, A(0));
    for (int64_t s = first_key; s < last_key; s += tile_keys_) {
      const int64_t count = std::min(tile_keys_, last_key - s);
      score_keys(tile, s, count, memory);
      const int64_t rows = add_to_blocks(tile, count, chunk, memory);
      const int64_t done = s + count < last_key ? (s + count) / block_chunks_ - block : rows;
      const int64_t skip = std::clamp<int64_t>(p_.initial - block, 0, done);
      best.offer(block + skip, block + done, memory.importance + skip * leaders_, leaders_,
                 tile.leaders);
      // What is not complete becomes the first rows of the next keys.
      A* const rest = std::copy(memory.importance + done * leaders_,
                                memory.importance + rows * leaders_, memory.importance);
      std::fill(rest, memory.importance + rows * leaders_, A(0));
      block += done;
    }
    return std::max(block, p_.initial);
  }

  void pack(const Tile& tile, Scratch& memory) const {
    constexpr A kLog2E = static_cast<A>(1.4426950408889634074);
    const auto query_row = [&](int64_t i) {
      return p_.leader_position(tile.first + std::min(i, tile.leaders - 1)) - p_.position;
    };
    std::fill_n(memory.lse, tile.width, std::numeric_limits<A>::infinity());
    for (int64_t h = 0; h < heads_; ++h) {
      const int64_t head = tile.group * heads_ + h;
      const A* const lse =
          static_cast<const A*>(p_.lse) + (tile.batch * p_.heads + head) * p_.queries;
      for (int64_t i = 0; i < tile.leaders; ++i)
        memory.lse[h * tile.stride + i] = lse[query_row(i)] * kLog2E;
      if (tile.stride % kLanes == 0) {
        pack_transposed([&](int64_t i) { return at(p_.q, tile.batch, query_row(i), head); },
                        tile.stride, p_.dim, memory.queries + h * tile.stride, tile.width);
      }
    }
    if (tile.stride % kLanes != 0) {
      pack_transposed(
          [&](int64_t row) {
            return at(p_.q, tile.batch, query_row(row % tile.stride),
                      tile.group * heads_ + row / tile.stride);
          },
          heads_ * tile.stride, p_.dim, memory.queries, tile.width);
    }
  }

  /// sums = the attention of each leader's heads to the keys [s, s + count).
  void score_keys(const Tile& tile, int64_t s, int64_t count, Scratch& memory) const {
    const TileRows<A> k =
        left_rows(at(p_.k, tile.batch, s, tile.group), p_.k.row_stride, count, p_.dim, memory.keys);
    tile_product<A, TileOrder::rows>(count, tile.width, p_.dim, k.data, k.stride, memory.queries,
                                     tile.width, memory.scores, tile.width, TileStore::overwrite);
    for (int64_t i = 0; i < tile.lanes; ++i)
      memory.seen[i] = static_cast<A>(std::clamp<int64_t>(tile.visible[i] - s, 0, count));
    if (tile.stride % kLanes == 0) {
      sum_heads(tile, count, memory);
    } else {
      sum_dense_heads(tile, count, memory);
    }
  }

  V attention(const A* scores, const A* lse) const {
    const V x =
        simd::load(scores) * static_cast<A>(p_.scale * 1.4426950408889634074) - simd::load(lse);
    // Attention to a key is at most 1, but for a wrong lse.
    return simd::exp2(x > A(127) ? simd::broadcast(A(127)) : x);
  }

  void sum_heads(const Tile& tile, int64_t count, Scratch& memory) const {
    for (int64_t lane = 0; lane < tile.stride; lane += kLanes) {
      const V seen = simd::load(memory.seen + lane);
      for (int64_t key = 0; key < count; ++key) {
        const A* const scores = memory.scores + key * tile.width + lane;
        V sum = attention(scores, memory.lse + lane);
        for (int64_t column = tile.stride; column < tile.width; column += tile.stride)
          sum += attention(scores + column, memory.lse + lane + column);
        sum = simd::broadcast(static_cast<A>(key)) < seen ? sum : V{};
        simd::store(memory.sums + key * leaders_ + lane, sum);
      }
    }
  }

  void sum_dense_heads(const Tile& tile, int64_t count, Scratch& memory) const {
    for (int64_t key = 0; key < count; ++key) {
      A* const row = memory.scores + key * tile.width;
      for (int64_t column = 0; column < tile.width; column += kLanes)
        simd::store(row + column, attention(row + column, memory.lse + column));
      A* const sums = memory.sums + key * leaders_;
      for (int64_t i = 0; i < kLanes; ++i) {
        A sum = 0;
        for (int64_t h = 0; h < heads_ && i < tile.leaders; ++h) sum += row[h * tile.stride + i];
        sums[i] = static_cast<A>(key) < memory.seen[i] ? sum : A(0);
      }
    }
  }

  /// Adds the sums of `count` keys to the blocks that they share strides with. Returns the number
  /// of rows touched, and brings `chunk` up to date.
  int64_t add_to_blocks(const Tile& tile, int64_t count, int64_t& chunk, Scratch& memory) const {
    A* row = memory.importance;
    int64_t touched = 0;
    for (int64_t key = 0; key < count; ++key) {
      const A* const sums = memory.sums + key * leaders_;
      const int64_t inside = std::min(chunks_, block_chunks_ - chunk);
      add(tile, row, sums, inside);
      if (inside < chunks_) add(tile, row + leaders_, sums, chunks_ - inside);
      touched = (row - memory.importance) / leaders_ + (inside < chunks_ ? 2 : 1);
      if (++chunk == block_chunks_) {
        chunk = 0;
        row += leaders_;
      }
    }
    return touched;
  }

  void add(const Tile& tile, A* to, const A* sums, int64_t weight) const {
    for (int64_t lane = 0; lane < tile.lanes; lane += kLanes) {
      simd::store(to + lane,
                  simd::load(to + lane) + simd::load(sums + lane) * static_cast<A>(weight));
    }
  }

  void write(int64_t pair, int64_t tile, std::span<const int32_t> chosen) const {
    const int64_t list = pair * p_.tiles + tile;
    int32_t* to = p_.blocks + p_.offsets[list];
    const auto own = static_cast<int32_t>(own_block(tile));
    int32_t next = 0;
    if (own + 1 > p_.count) {
      while (next < p_.initial) *to++ = next++;
      to = std::copy(chosen.begin(), chosen.end(), to);
      next = own + 1 - static_cast<int32_t>(p_.local);
    }
    while (next <= own) *to++ = next++;
  }

  const BlockSelectionParams& p_;
  int64_t heads_;    // of a group
  int64_t leaders_;  // of a tile, a whole number of vectors
  int64_t columns_;  // of a full tile
  int64_t tile_keys_;
  int64_t chunks_;        // strides in a compressed key
  int64_t block_chunks_;  // strides in a block
  int64_t scored_, tiles_;
};

}  // namespace

void select_blocks_cpu(const BlockSelectionParams& params, Stream /*stream*/) {
  dispatch_floating(params.dtype, "select_blocks",
                    [&]<class T>() { BlockSelector<T>(params).run(); });
}

}  // namespace weft::attention
