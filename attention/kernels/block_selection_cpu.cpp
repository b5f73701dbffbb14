// Scores compressed keys against the leaders of query runs and keeps the best blocks. A task is a
// tile of leaders of one (batch, group). Leaders lie along vector lanes from the scores to the
// search, so that sums over heads and the weights of overlapping keys need no operation across a
// vector.
#include <algorithm>
#include <limits>

#include "weft/tensor/dispatch.h"
#include "weft/tensor/parallel.h"

#include "kernels/block_selection_kernels.h"
#include "kernels/dot_product.h"
#include "kernels/largest_values.h"
#include "kernels/scored_attention_kernels.h"
#include "kernels/simd.h"
#include "kernels/tile_memory.h"
#include "kernels/tile_product.h"

namespace weft::attention {
namespace {

template <class T>
class BlockSelector {
  using A = accumulator_t<T>;
  using V = simd::Vec<A>;
  static constexpr int64_t kLanes = simd::kLanes<A>;
  static constexpr A kLog2E = static_cast<A>(1.4426950408889634074);

 public:
  /// The scores of one query are read from `scores`, [B, H] rows that are `scores_stride` apart,
  /// unless it is null.
  explicit BlockSelector(const BlockSelectionParams& params, const A* scores = nullptr,
                         int64_t scores_stride = 0)
      : p_(params),
        scores_(scores),
        scores_stride_(scores_stride),
        heads_(params.heads / params.groups),
        leaders_(std::max<int64_t>(kTileRows / heads_ / kLanes, 1) * kLanes),
        columns_(heads_ * leaders_),
        tile_keys_(std::clamp<int64_t>(kTileRows * kTileKeys / columns_, 16, kTileKeys)),
        chunks_(params.compression_block / params.compression_stride),
        block_chunks_(params.key_block / params.compression_stride),
        // Own blocks are forced; the last compressed key before one may reach into it.
        blocks_(own_block(params.tiles - 1) + 2),
        tiles_((params.tiles - params.first_tile + leaders_ - 1) / leaders_) {}

  void run() {
    const int64_t pairs = p_.batch * p_.groups;
    ThreadScratch<A> scratch(num_threads(), scratch_elements());
    // Tiles of one group follow each other where there are enough groups; see the forward of flash
    // attention.
    const bool by_pair = pairs >= 4 * num_threads();
    // A decoding step near the start is too little work to wake threads for.
    const int64_t products = p_.batch * p_.heads * p_.compressed *
                             (scores_ == nullptr ? tiles_ * leaders_ * p_.dim : kExpWork);
    const int64_t grain = products < 1 << 16 ? pairs * tiles_ : by_pair ? tiles_ : 1;
    parallel_for_dynamic(0, pairs * tiles_, grain, [&](int64_t begin, int64_t end, int thread) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t pair = by_pair ? task / tiles_ : task % pairs;
        const int64_t tile = tiles_ - 1 - (by_pair ? task % tiles_ : task / pairs);
        run_tile(pair, tile, Scratch(*this, scratch.of(thread)));
      }
    });
  }

 private:
  /// Products that take as long as an exponential and the rest for one score.
  static constexpr int64_t kExpWork = 4;

  struct Scratch {
    Scratch(const BlockSelector& s, A* memory)
        : queries(memory),
          keys(queries + s.p_.dim * s.columns_),
          scores(keys + s.tile_keys_ * padded<A>(s.p_.dim)),
          lse(scores + s.tile_keys_ * s.columns_),
          sums(lse + s.columns_),
          importance(sums + s.tile_keys_ * s.leaders_),
          row(importance + s.blocks_ * s.leaders_),
          seen(row + padded<A>(s.blocks_)) {}
    A* queries;     // [dim][columns]
    A* keys;        // [tile_keys][padded dim]
    A* scores;      // [tile_keys][columns]
    A* lse;         // [columns], times log2(e)
    A* sums;        // [leaders / lanes][tile_keys][lanes], over heads
    A* importance;  // [leaders / lanes][blocks][lanes]
    A* row;         // [padded blocks], the importance for one leader
    A* seen;        // [leaders]: keys, counted from the first of a tile
  };

  int64_t scratch_elements() const {
    return columns_ * (p_.dim + tile_keys_ + 1) + tile_keys_ * padded<A>(p_.dim) +
           leaders_ * (tile_keys_ + blocks_ + 1) + padded<A>(blocks_);
  }

  /// Leaders of one tile, and how they lie in its columns: that of leader i and head h is
  /// h * stride + i. Few leaders lie densely, so that a decode step computes few columns.
  struct Tile {
    int64_t pair, batch, group, first, leaders, stride, width;
    int64_t lanes;               // leaders rounded up to whole vectors
    int64_t visible[kTileRows];  // compressed keys that each leader sees
    int64_t first_block;         // of the rows of importance
    bool dense() const { return stride % kLanes != 0; }
  };

  const T* at(const HeadsView& view, int64_t b, int64_t row, int64_t head) const {
    return static_cast<const T*>(view.data) + b * view.batch_stride + row * view.row_stride +
           head * view.head_stride;
  }

  int64_t own_block(int64_t tile) const { return p_.leader_position(tile) / p_.key_block; }
  /// Where the choice of a leader ends: its local blocks begin there. 0 where all is taken or
  /// forced.
  int64_t open_end(int64_t tile) const {
    const int64_t own = own_block(tile);
    return own + 1 > p_.count && free_count() > 0 ? own + 1 - p_.local : 0;
  }
  /// Blocks of a list that are not forced, where there is a choice.
  int64_t free_count() const { return p_.count - p_.initial - p_.local; }

  void run_tile(int64_t pair, int64_t index, const Scratch& memory) const {
    if (is_lone(index)) return run_lone(pair, index, memory);
    Tile tile;
    tile.pair = pair;
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
    // Later leaders choose among more blocks.
    const int64_t end = open_end(tile.first + tile.leaders - 1);
    if (end > 0) score_blocks(tile, end, memory);
    for (int64_t lane = 0; lane < tile.leaders; lane += kLanes) {
      if (end > 0 && tile.dense()) {
        for (int64_t i = lane; i < tile.leaders; ++i) choose_one(tile, i, memory);
      } else {
        choose(tile, lane, end, memory);
      }
    }
  }

  /// Whether a tile holds one leader of few heads, as in decoding: packing its query along lanes
  /// would leave most of them empty.
  bool is_lone(int64_t index) const {
    return scores_ != nullptr ||
           (p_.tiles - (p_.first_tile + index * leaders_) == 1 && heads_ <= kLanes / 2);
  }

  /// Chooses for one leader, whose scores lie key by key along the lanes.
  void run_lone(int64_t pair, int64_t index, const Scratch& memory) const {
    Tile tile{};
    tile.pair = pair;
    tile.batch = pair / p_.groups;
    tile.group = pair % p_.groups;
    tile.first = p_.first_tile + index * leaders_;
    tile.leaders = 1;
    const int64_t end = open_end(tile.first);
    int32_t* const to = start_list(tile, 0, end > 0);
    if (end == 0) return;
    A* const importance = memory.importance;  // by block; never short of a vector behind `end`
    score_lone(tile, end, importance, memory);
    const int64_t count = end - p_.initial, vectors = padded<A>(count) / kLanes;
    std::fill(importance + end, importance + p_.initial + vectors * kLanes, A(-1));
    const int64_t wanted = free_count();
    LargestValues<A> largest;
    const A* const values = importance + p_.initial;
    largest.find(LargestValues<A>::Lists::along_lanes, values, vectors, &wanted);
    end_list(tile, 0, largest.write(0, values, count, p_.initial, to));
  }

  void score_lone(const Tile& tile, int64_t end, A* importance, const Scratch& memory) const {
    const int64_t leader = p_.leader_position(tile.first);
    const int64_t first_key = std::max<int64_t>(p_.initial * block_chunks_ - chunks_ + 1, 0);
    const int64_t last_key = std::min(end * block_chunks_, p_.visible(leader));
    const int64_t width = padded<A>(p_.dim);
    std::fill_n(importance, end + 2, A(0));
    A* const lse = memory.lse;
    for (int64_t h = 0; h < heads_; ++h) {
      const int64_t head = tile.group * heads_ + h, row = leader - p_.position;
      if (scores_ == nullptr)
        pack_rows(at(p_.q, tile.batch, row, head), 0, 1, p_.dim, memory.queries + h * width, width);
      lse[h] =
          static_cast<const A*>(p_.lse)[(tile.batch * p_.heads + head) * p_.queries + row] * kLog2E;
    }
    // Vectors of given scores begin where vectors of their rows do.
    const int64_t first = scores_ == nullptr ? first_key : first_key / kLanes * kLanes;
    const int64_t step = scores_ == nullptr ? tile_keys_ : tile_keys_ / kLanes * kLanes;
    for (int64_t s = first; s < last_key; s += step) {
      const int64_t count = std::min(step, last_key - s), keys_width = padded<A>(count);
      const A* scores = memory.scores;
      int64_t stride = kTileKeys;
      if (scores_ == nullptr) {
        const A* keys[kTileKeys];
        for (int64_t j = 0; j < keys_width; ++j)
          keys[j] = lone_key(tile, s + std::min(j, count - 1), j, memory);
        dot_keys<A>(heads_, count, memory.queries, width, {keys, width}, {}, memory.scores,
                    kTileKeys, {});
      } else {
        stride = scores_stride_;
        scores = scores_ + (tile.batch * p_.heads + tile.group * heads_) * stride + s;
      }
      for (int64_t j = 0; j < keys_width; j += kLanes) {
        V sum{};
        for (int64_t h = 0; h < heads_; ++h)
          sum += attention(simd::load(scores + h * stride + j), simd::broadcast(lse[h]));
        simd::store(memory.sums + j, sum >= A(0) ? sum : V{});
      }
      const int64_t begin = std::max(s, first_key);
      add_to_blocks(begin, s + count, memory.sums + (begin - s), importance);
    }
  }

  /// Adds the sums of the keys [first, last) of one leader, that of `first` at sums[0], to the
  /// blocks that they share strides with.
  void add_to_blocks(int64_t first, int64_t last, const A* sums, A* importance) const {
    if (block_chunks_ == 1) {  // one key for each block
      for (int64_t key = first; key < last; ++key) importance[key] += sums[key - first];
      return;
    }
    int64_t block = first / block_chunks_, end = (block + 1) * block_chunks_;
    for (int64_t key = first; key < last; ++block, end += block_chunks_) {
      A inside = importance[block], behind = importance[block + 1];
      for (; key < std::min(end, last); ++key) {
        const int64_t left = end - key;  // strides of the block from here
        inside += sums[key - first] * static_cast<A>(std::min(chunks_, left));
        if (left < chunks_) behind += sums[key - first] * static_cast<A>(chunks_ - left);
      }
      importance[block] = inside;
      importance[block + 1] = behind;
    }
  }

  /// A compressed key in whole vectors of A: in place, or as row `slot` of the scratch memory.
  const A* lone_key(const Tile& tile, int64_t key, int64_t slot, const Scratch& memory) const {
    const T* const row = at(p_.k, tile.batch, key, tile.group);
    const int64_t width = padded<A>(p_.dim);
    if constexpr (std::is_same_v<A, T>) {
      if (width == p_.dim) return row;
    }
    A* const copy = memory.keys + std::min(slot, tile_keys_ - 1) * width;
    pack_rows(row, 0, 1, p_.dim, copy, width);
    return copy;
  }

  /// The importance of the blocks from `initial` to `end`.
  void score_blocks(Tile& tile, int64_t end, const Scratch& memory) const {
    // Keys that reach into block `initial` or beyond it.
    const int64_t first_key = std::max<int64_t>(p_.initial * block_chunks_ - chunks_ + 1, 0);
    const int64_t last_key = std::min(end * block_chunks_, tile.visible[tile.leaders - 1]);
    tile.first_block = std::min(first_key / block_chunks_, p_.initial);
    for (int64_t lane = 0; lane < tile.lanes; lane += kLanes) {
      std::fill_n(memory.importance + lane * blocks_, (end + 1 - tile.first_block) * kLanes, A(0));
    }
    if (first_key >= last_key) return;
    pack(tile, memory);
    for (int64_t s = first_key; s < last_key; s += tile_keys_) {
      const int64_t count = std::min(tile_keys_, last_key - s);
      score_keys(tile, s, count, memory);
      for (int64_t lane = 0; lane < tile.lanes; lane += kLanes)
        add_to_blocks(tile, s, count, memory.sums + lane * tile_keys_,
                      memory.importance + lane * blocks_);
    }
  }

  void pack(const Tile& tile, const Scratch& memory) const {
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
      if (!tile.dense()) {
        pack_transposed([&](int64_t i) { return at(p_.q, tile.batch, query_row(i), head); },
                        tile.stride, p_.dim, memory.queries + h * tile.stride, tile.width);
      }
    }
    if (tile.dense()) {
      pack_transposed(
          [&](int64_t row) {
            return at(p_.q, tile.batch, query_row(row % tile.stride),
                      tile.group * heads_ + row / tile.stride);
          },
          heads_ * tile.stride, p_.dim, memory.queries, tile.width);
    }
  }

  /// sums = the attention of each leader's heads to the keys [s, s + count).
  void score_keys(const Tile& tile, int64_t s, int64_t count, const Scratch& memory) const {
    const TileRows<A> k =
        left_rows(at(p_.k, tile.batch, s, tile.group), p_.k.row_stride, count, p_.dim, memory.keys);
    tile_product<A, TileOrder::rows>(count, tile.width, p_.dim, k.data, k.stride, memory.queries,
                                     tile.width, memory.scores, tile.width, TileStore::overwrite);
    for (int64_t i = 0; i < tile.lanes; ++i)
      memory.seen[i] = static_cast<A>(std::clamp<int64_t>(tile.visible[i] - s, 0, count));
    if (tile.dense()) {
      sum_dense_heads(tile, count, memory);
    } else {
      for (int64_t lane = 0; lane < tile.lanes; lane += kLanes)
        sum_heads(tile, lane, count, memory);
    }
  }

  /// Of scores, with lse times log2(e).
  V attention(V scores, V lse) const {
    // At most 1, unless lse is not that of these keys: then lists still hold blocks, but any.
    return simd::exp2(scores * static_cast<A>(p_.scale * 1.4426950408889634074) - lse);
  }

  /// What is hidden counts nothing, and so does NaN, which could not be ranked.
  static V counted(V sum, V seen, V index) {
    sum = index < seen ? sum : V{};
    return sum >= A(0) ? sum : V{};
  }

  void sum_heads(const Tile& tile, int64_t lane, int64_t count, const Scratch& memory) const {
    const V seen = simd::load(memory.seen + lane);
    A* const sums = memory.sums + lane * tile_keys_;
    V index{};
    for (int64_t key = 0; key < count; ++key, index += A(1)) {
      const A* const scores = memory.scores + key * tile.width + lane;
      V sum = attention(simd::load(scores), simd::load(memory.lse + lane));
      for (int64_t column = tile.stride; column < tile.width; column += tile.stride)
        sum += attention(simd::load(scores + column), simd::load(memory.lse + lane + column));
      simd::store(sums + key * kLanes, counted(sum, seen, index));
    }
  }

  void sum_dense_heads(const Tile& tile, int64_t count, const Scratch& memory) const {
    for (int64_t key = 0; key < count; ++key) {
      A* const row = memory.scores + key * tile.width;
      for (int64_t column = 0; column < tile.width; column += kLanes)
        simd::store(row + column,
                    attention(simd::load(row + column), simd::load(memory.lse + column)));
      A* const sums = memory.sums + key * kLanes;
      simd::store(sums, V{});
      for (int64_t i = 0; i < tile.leaders; ++i) {
        A sum = row[i];
        for (int64_t h = 1; h < heads_; ++h) sum += row[h * tile.stride + i];
        const bool counts = static_cast<A>(key) < memory.seen[i] && sum >= A(0);
        sums[i] = counts ? sum : A(0);
      }
    }
  }

  /// Adds the sums of the keys [s, s + count) to the blocks that they share strides with.
  void add_to_blocks(const Tile& tile, int64_t s, int64_t count, const A* sums,
                     A* importance) const {
    int64_t chunk = s % block_chunks_;  // of its block, where the key begins
    A* row = importance + (s / block_chunks_ - tile.first_block) * kLanes;
    for (int64_t key = 0; key < count; ++key) {
      const V sum = simd::load(sums + key * kLanes);
      const int64_t inside = std::min(chunks_, block_chunks_ - chunk);
      simd::store(row, simd::load(row) + sum * static_cast<A>(inside));
      if (inside < chunks_) {
        A* const next = row + kLanes;
        simd::store(next, simd::load(next) + sum * static_cast<A>(chunks_ - inside));
      }
      if (++chunk == block_chunks_) {
        chunk = 0;
        row += kLanes;
      }
    }
  }

  /// Writes the lists of the leaders of one vector, which choose among blocks up to `end`.
  void choose(const Tile& tile, int64_t lane, int64_t end, const Scratch& memory) const {
    const int64_t leaders = std::min(kLanes, tile.leaders - lane);
    A* const values =
        memory.importance + lane * blocks_ + (end > 0 ? p_.initial - tile.first_block : 0) * kLanes;
    int64_t wanted[kLanes];
    int32_t* cursors[kLanes] = {};
    for (int64_t i = 0; i < leaders; ++i) {
      const int64_t open = open_end(tile.first + lane + i);
      cursors[i] = start_list(tile, lane + i, open > 0);
      if (open == 0) cursors[i] = nullptr;
      for (int64_t block = std::max(open, p_.initial); block < end; ++block)
        values[(block - p_.initial) * kLanes + i] = A(-1);
    }
    if (end == 0) return;
    // Lanes without a choice search among what is there.
    for (int64_t i = 0; i < kLanes; ++i) wanted[i] = cursors[i] != nullptr ? free_count() : 0;
    LargestValues<A> largest;
    largest.find(LargestValues<A>::Lists::one_per_lane, values, end - p_.initial, wanted);
    largest.write_lanes(values, end - p_.initial, p_.initial, cursors);
    for (int64_t i = 0; i < leaders; ++i) {
      if (cursors[i] != nullptr) end_list(tile, lane + i, cursors[i]);
    }
  }

  /// Writes the list of one leader of a vector that holds few.
  void choose_one(const Tile& tile, int64_t leader, const Scratch& memory) const {
    const int64_t open = open_end(tile.first + leader);
    int32_t* to = start_list(tile, leader, open > 0);
    if (open == 0) return;
    const int64_t count = open - p_.initial, vectors = padded<A>(count) / kLanes;
    const A* const values = memory.importance + (p_.initial - tile.first_block) * kLanes + leader;
    for (int64_t j = 0; j < count; ++j) memory.row[j] = values[j * kLanes];
    std::fill(memory.row + count, memory.row + vectors * kLanes, A(-1));
    const int64_t wanted = free_count();
    LargestValues<A> largest;
    largest.find(LargestValues<A>::Lists::along_lanes, memory.row, vectors, &wanted);
    end_list(tile, leader, largest.write(0, memory.row, count, p_.initial, to));
  }

  /// Writes the whole list where all blocks are taken or forced, else the initial ones.
  int32_t* start_list(const Tile& tile, int64_t leader, bool chooses) const {
    const int64_t index = tile.first + leader;
    int32_t* to = p_.blocks + p_.offsets[tile.pair * p_.tiles + index];
    const int64_t own = own_block(index);
    if (!chooses && own + 1 <= p_.count) return write_blocks(0, own + 1, to);
    to = write_blocks(0, p_.initial, to);
    return chooses ? to : end_list(tile, leader, to);
  }
  int32_t* end_list(const Tile& tile, int64_t leader, int32_t* to) const {
    const int64_t own = own_block(tile.first + leader);
    return write_blocks(own + 1 - p_.local, own + 1, to);
  }
  static int32_t* write_blocks(int64_t first, int64_t last, int32_t* to) {
    for (int64_t block = first; block < last; ++block) *to++ = static_cast<int32_t>(block);
    return to;
  }

  const BlockSelectionParams& p_;
  const A* scores_;
  int64_t scores_stride_;
  int64_t heads_;    // of a group
  int64_t leaders_;  // of a tile, a whole number of vectors
  int64_t columns_;  // of a full tile
  int64_t tile_keys_;
  int64_t chunks_;        // strides in a compressed key
  int64_t block_chunks_;  // strides in a block
  int64_t blocks_;        // room in a row of importance
  int64_t tiles_;
};

}  // namespace

namespace {

/// Where the lists of a call begin that inherits none.
void write_offsets(const BlockSelectionParams& params) {
  const int64_t pairs = params.batch * params.groups;
  for (int64_t pair = 0; pair < pairs; ++pair) {
    for (int64_t tile = 0; tile < params.tiles; ++tile)
      params.offsets[pair * params.tiles + tile] =
          pair * params.blocks_before(params.tiles) + params.blocks_before(tile);
  }
  params.offsets[pairs * params.tiles] = pairs * params.blocks_before(params.tiles);
}

}  // namespace

void select_blocks_cpu(const BlockSelectionParams& params, Stream /*stream*/) {
  if (params.first_tile == 0) write_offsets(params);
  dispatch_floating(params.dtype, "select_blocks",
                    [&]<class T>() { BlockSelector<T>(params).run(); });
}

void select_scored_blocks_cpu(const ScoredSelectionParams& params, Stream /*stream*/) {
  write_offsets(params);
  const auto run = [&]<class A>() {
    BlockSelector<A>(params, static_cast<const A*>(params.scores), params.scores_stride).run();
  };
  if (params.dtype == DType::f64) {
    run.template operator()<double>();
  } else {
    run.template operator()<float>();
  }
}

}  // namespace weft::attention
