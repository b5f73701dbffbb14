// Scores compressed keys against the leaders of query runs and keeps the best blocks. A block of
// threads has a few leaders of one (batch, group) with all heads of the group as rows of a tile;
// the importance of all blocks for its leaders stays in shared memory. Every sum has one owner and
// a fixed order.
#include <algorithm>

#include "kernels/attention_cuda.cuh"
#include "kernels/block_selection_kernels.h"

namespace weft::attention {
namespace {

using namespace gpu;

constexpr const char* kOp = "select_blocks";

struct Arguments {
  RowsView q, k;
  const void* lse;
  const int64_t* offsets;
  int32_t* blocks;
  int batch, queries, heads, groups, heads_of_group, dim, compressed;
  int64_t position;
  int compression_block, compression_stride, key_block, query_tile;
  int count, initial, local;
  int tiles, first_tile;
  double scale;
  int leaders;       // of a block of threads
  int leader_tiles;  // blocks of threads of one (batch, group)
  int room;          // blocks whose importance is kept for a leader

  __device__ int64_t leader_position(int tile) const {
    return (position / query_tile + tile) * query_tile;
  }
  __device__ int own_block(int tile) const {
    return static_cast<int>(leader_position(tile) / key_block);
  }
  /// Compressed keys that a leader sees.
  __device__ int visible(int tile) const {
    const int64_t past = leader_position(tile) + 1 - compression_block;
    const int64_t complete = past < 0 ? 0 : past / compression_stride + 1;
    return complete < compressed ? static_cast<int>(complete) : compressed;
  }
  /// Blocks of a list that are not forced, where there is a choice.
  __device__ int free_count() const { return count - initial - local; }
  /// Where the choice of a leader ends: its local blocks begin there. 0 where all is taken or
  /// forced.
  __device__ int open_end(int tile) const {
    const int own = own_block(tile);
    return own + 1 > count && free_count() > 0 ? own + 1 - local : 0;
  }
};

/// Where a block of threads keeps what it needs in shared memory.
template <class T, class Tile>
struct SelectionMemory {
  using A = sum_t<T>;
  size_t keys_at, scores_at, sums_at, importance_at, lse_at, places_at, bytes;
  int stride;

  __host__ __device__ SelectionMemory(int dim, int leaders, int room) {
    constexpr auto kSize = static_cast<int64_t>(sizeof(A));
    const auto even = [](int64_t bytes) { return (bytes + 15) / 16 * 16; };
    stride = padded(dim) + kRowPad<T>;
    keys_at = Tile::kRows * stride * static_cast<int64_t>(sizeof(T));
    scores_at = keys_at + Tile::kKeys * stride * static_cast<int64_t>(sizeof(T));
    sums_at = scores_at + Tile::kRows * (Tile::kKeys + 1) * kSize;
    importance_at = sums_at + leaders * Tile::kKeys * kSize;
    lse_at = importance_at + even(leaders * static_cast<int64_t>(room) * kSize);
    places_at = lse_at + Tile::kRows * kSize;
    bytes = places_at + 2 * Tile::kRows * static_cast<int64_t>(sizeof(int));
  }
};

/// The bits of a value that is not negative, which are ordered as the values are.
__device__ __forceinline__ long long order(float x) {
  return __float_as_int(x);
}
__device__ __forceinline__ long long order(double x) {
  return __double_as_longlong(x);
}

/// One warp writes the list of one leader; importance[block - base] of the blocks up to its
/// choice's end.
template <class A>
__device__ void write_list(const Arguments& a, int pair, int tile, const A* importance, int base) {
  const int lane = lane_index();
  int32_t* to = a.blocks + a.offsets[static_cast<int64_t>(pair) * a.tiles + tile];
  const int own = a.own_block(tile), end = a.open_end(tile);
  if (own + 1 <= a.count) {
    for (int block = lane; block <= own; block += 32) to[block] = block;
    return;
  }
  for (int block = lane; block < a.initial; block += 32) to[block] = block;
  to += a.initial;
  if (end > 0) {
    // The smallest value that is taken: at least `wanted` values are not below it, fewer are above.
    const int wanted = a.free_count();
    long long low = 0, high = 0;
    for (int block = a.initial + lane; block < end; block += 32)
      high = max(high, order(importance[block - base]));
#pragma unroll
    for (int step = 16; step > 0; step /= 2)
      high = max(high, __shfl_xor_sync(0xffffffffu, high, step));
    ++high;
    int above = 0;  // values from `high` on
    while (high - low > 1) {
      const long long middle = low + (high - low) / 2;
      int count = 0;
      for (int block = a.initial + lane; block < end; block += 32)
        count += order(importance[block - base]) >= middle ? 1 : 0;
      count = warp_sum(count);
      if (count >= wanted) {
        low = middle;
      } else {
        high = middle;
        above = count;
      }
    }
    // Of equal values the first blocks are taken.
    int equal = wanted - above;
    for (int begin = a.initial; begin < end; begin += 32) {
      const int block = begin + lane;
      const long long value = block < end ? order(importance[block - base]) : -1;
      const unsigned same = __ballot_sync(0xffffffffu, value == low);
      const unsigned before = (1u << lane) - 1;
      const bool taken = value > low || (value == low && __popc(same & before) < equal);
      const unsigned all = __ballot_sync(0xffffffffu, taken);
      if (taken) to[__popc(all & before)] = block;
      to += __popc(all);
      equal -= min(equal, __popc(same));
    }
  }
  for (int i = lane; i < a.local; i += 32) to[i] = own + 1 - a.local + i;
}

constexpr int kOffsetThreads = 256;

/// Where the lists begin, and where the last one ends.
__global__ void __launch_bounds__(kOffsetThreads)
    offsets_kernel(const BlockSelectionParams p, int64_t count) {
  const int64_t list = static_cast<int64_t>(blockIdx.x) * kOffsetThreads + threadIdx.x;
  if (list < count)
    p.offsets[list] = list / p.tiles * p.blocks_before(p.tiles) + p.blocks_before(list % p.tiles);
}

template <class T, class Tile>
__global__ void __launch_bounds__(Tile::kThreads) select_blocks_kernel(const Arguments a) {
  using A = sum_t<T>;
  constexpr int kRows = Tile::kRows, kKeys = Tile::kKeys, kThreads = Tile::kThreads;
  constexpr int kScoreStride = kKeys + 1;
  extern __shared__ __align__(16) unsigned char memory[];
  const SelectionMemory<T, Tile> lies(a.dim, a.leaders, a.room);
  T* const q_tile = reinterpret_cast<T*>(memory);
  T* const k_tile = reinterpret_cast<T*>(memory + lies.keys_at);
  A* const scores = reinterpret_cast<A*>(memory + lies.scores_at);
  A* const sums = reinterpret_cast<A*>(memory + lies.sums_at);  // [leaders][kKeys], over heads
  A* const importance = reinterpret_cast<A*>(memory + lies.importance_at);  // [leaders][room]
  A* const row_lse = reinterpret_cast<A*>(memory + lies.lse_at);            // times log2(e)
  int* const row_token = reinterpret_cast<int*>(memory + lies.places_at);
  int* const row_head = row_token + kRows;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32;

  // The last leaders, which choose among most blocks, go first.
  const int pairs = a.batch * a.groups;
  const int pair = static_cast<int>(blockIdx.x) % pairs;
  const int piece = a.leader_tiles - 1 - static_cast<int>(blockIdx.x) / pairs;
  const int batch = pair / a.groups, group = pair % a.groups;
  const int tile0 = a.first_tile + piece * a.leaders;
  const int leaders = min(a.leaders, a.tiles - tile0);

  // Keys that reach into the blocks among which the last leader chooses.
  const int chunks = a.compression_block / a.compression_stride;
  const int block_chunks = a.key_block / a.compression_stride;
  const int end = a.open_end(tile0 + leaders - 1);
  const int first_key = max(a.initial * block_chunks - chunks + 1, 0);
  const int last_key =
      end == 0 ? 0
               : static_cast<int>(min(static_cast<int64_t>(end) * block_chunks,
                                      static_cast<int64_t>(a.visible(tile0 + leaders - 1))));
  const int base = min(first_key / block_chunks, a.initial);
  for (int i = thread; end > 0 && i < leaders * a.room; i += kThreads) importance[i] = 0;

  const int row0 = warp / Tile::kWarpsN * Tile::kTilesM * 16;
  const int key0 = warp % Tile::kWarpsN * Tile::kKeyTiles * 8;
  const A c = static_cast<A>(a.scale) * kLog2e<A>;
  // More heads than rows of a tile are taken one part after the other, for one leader.
  const int heads = min(a.heads_of_group, kRows);
  const int parts = (a.heads_of_group + heads - 1) / heads;
  for (int key = first_key; key < last_key; key += kKeys) {
    const int count = min(kKeys, last_key - key);
    for (int part = 0; part < parts; ++part) {
      const bool copies_queries = parts > 1 || key == first_key;
      if (copies_queries) {
        for (int r = thread; r < kRows; r += kThreads) {
          const int head = part * heads + r % heads;
          const bool there = r / heads < leaders && head < a.heads_of_group;
          row_token[r] =
              there ? static_cast<int>(a.leader_position(tile0 + r / heads) - a.position) : -1;
          row_head[r] = group * a.heads_of_group + head;
          row_lse[r] = infinity<A>();  // of no attention
          if (there) {
            row_lse[r] =
                static_cast<const A*>(
                    a.lse)[(static_cast<int64_t>(batch) * a.heads + row_head[r]) * a.queries +
                           row_token[r]] *
                kLog2e<A>;
          }
        }
        __syncthreads();
        copy_rows<T, kRows, kThreads>(
            q_tile, lies.stride, padded(a.dim), a.dim, a.q.vectors, a.q.data, [&](int r) {
              return row_token[r] < 0 ? nullptr : a.q.at<T>(batch, row_token[r], row_head[r]);
            });
      }
      if (part == 0) {
        copy_rows<T, kKeys, kThreads>(
            k_tile, lies.stride, padded(a.dim), a.dim, a.k.vectors, a.k.data,
            [&](int j) { return j < count ? a.k.at<T>(batch, key + j, group) : nullptr; });
      }
      end_copies();
      wait_for_copies<0>();
      __syncthreads();
      Fragment<T, Tile::kTilesM, Tile::kKeyTiles> products;
      products.clear();
      multiply<T, Lies::along, Lies::along>(products, q_tile + row0 * lies.stride, lies.stride,
                                            k_tile + key0 * lies.stride, lies.stride,
                                            padded(a.dim));
#pragma unroll
      for (int i = 0; i < Tile::kTilesM; ++i) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int row = row0 + fragment_row(i, half);
#pragma unroll
          for (int j = 0; j < Tile::kKeyTiles; ++j) {
#pragma unroll
            for (int e = 0; e < 2; ++e) {
              // At most 1, unless lse is not that of these keys: then lists still hold blocks, but
              // any.
              scores[row * kScoreStride + key0 + fragment_column(j, e)] =
                  power_of_two<T>(products.v[i][j][2 * half + e] * c - row_lse[row]);
            }
          }
        }
      }
      __syncthreads();
      for (int i = thread; i < leaders * kKeys; i += kThreads) {
        const int leader = i / kKeys, j = i % kKeys;
        A sum = part == 0 ? A(0) : sums[i];
        for (int h = 0; h < heads; ++h) sum += scores[(leader * heads + h) * kScoreStride + j];
        sums[i] = sum;
      }
      __syncthreads();
    }
    // Add to the blocks that keys share strides with, in the order of the keys.
    const int first_block = key / block_chunks;
    const int last_block = min((key + count - 2 + chunks) / block_chunks, end) + 1;
    const int blocks = last_block - first_block;
    for (int i = thread; i < leaders * blocks; i += kThreads) {
      const int leader = i / blocks, block = first_block + i % blocks;
      const int begin = block * block_chunks;
      const int seen = min(key + count, a.visible(tile0 + leader));
      A sum = importance[leader * a.room + block - base];
      for (int s = max(key, begin - chunks + 1); s < min(seen, begin + block_chunks); ++s) {
        const int inside = min(s + chunks, begin + block_chunks) - max(s, begin);
        const A attention = sums[leader * kKeys + s - key];
        // What is NaN counts nothing: it could not be ranked.
        if (attention >= A(0)) sum += attention * static_cast<A>(inside);
      }
      importance[leader * a.room + block - base] = sum;
    }
  }
  __syncthreads();
  for (int leader = warp; leader < leaders; leader += kThreads / 32)
    write_list(a, pair, tile0 + leader, importance + leader * a.room, base);
}

/// Runs the kernel with as many leaders for a block of threads as fit in shared memory.
template <class T, class Tile>
bool try_select(Arguments a, Stream stream) {
  const int leaders = std::max(Tile::kRows / a.heads_of_group, 1);
  const size_t most_bytes = most_shared_bytes(stream);
  for (a.leaders = leaders;; a.leaders /= 2) {
    if (a.leaders == 0) return false;
    if (SelectionMemory<T, Tile>(a.dim, a.leaders, a.room).bytes <= most_bytes) break;
  }
  a.leader_tiles = static_cast<int>(ceil_div(a.tiles - a.first_tile, a.leaders));
  const int64_t blocks = static_cast<int64_t>(a.batch) * a.groups * a.leader_tiles;
  launch(kOp, stream,
         {grid_size(kOp, blocks), Tile::kThreads,
          SelectionMemory<T, Tile>(a.dim, a.leaders, a.room).bytes},
         select_blocks_kernel<T, Tile>, a);
  return true;
}

int as_int(const char* name, int64_t value) {
  if (value >= INT32_MAX / 2)
    throw ShapeError(std::string(kOp) + ": " + std::to_string(value) + " " + name +
                     " are more than a CUDA device takes");
  return static_cast<int>(value);
}

}  // namespace

void select_blocks_cuda(const BlockSelectionParams& p, Stream stream) {
  Arguments a{};
  a.q = rows_view(p.q, p.dtype, p.dim);
  a.k = rows_view(p.k, p.dtype, p.dim);
  a.lse = p.lse;
  a.offsets = p.offsets;
  a.blocks = p.blocks;
  a.batch = as_int("batch entries", p.batch);
  a.queries = as_int("queries", p.queries);
  a.heads = as_int("heads", p.heads);
  a.groups = as_int("groups", p.groups);
  a.heads_of_group = a.heads / a.groups;
  a.dim = as_int("dims of a head", p.dim);
  a.compressed = as_int("compressed keys", p.compressed);
  a.position = p.position;
  a.compression_block = as_int("tokens of a compressed key", p.compression_block);
  a.compression_stride = as_int("tokens between compressed keys", p.compression_stride);
  a.key_block = as_int("tokens of a block", p.key_block);
  a.query_tile = as_int("queries of a run", p.query_tile);
  a.count = as_int("blocks of a list", p.count);
  a.initial = as_int("initial blocks", p.initial);
  a.local = as_int("local blocks", p.local);
  a.tiles = as_int("runs of queries", p.tiles);
  a.first_tile = as_int("inherited lists", p.first_tile);
  a.scale = p.scale;
  if (p.first_tile == 0) {
    const int64_t count = p.batch * p.groups * p.tiles + 1;
    launch(kOp, stream, {grid_size(kOp, ceil_div(count, kOffsetThreads)), kOffsetThreads},
           offsets_kernel, p, count);
  }
  // Own blocks are forced; the last compressed key before one may reach into it.
  a.room = as_int("blocks", p.leader_position(p.tiles - 1) / p.key_block + 2);
  bool fits = false;
  dispatch_native(p.dtype, kOp, [&]<class T>() {
    if constexpr (!std::is_same_v<T, double>)
      fits = try_select<T, Tiling<64, 64, 64, 2, 4>>(a, stream);
    fits = fits || try_select<T, Tiling<16, 32, 64, 1, 4>>(a, stream);
  });
  if (!fits) {
    throw NotImplementedError(std::string(kOp) + ": " + std::to_string(a.room) +
                              " blocks and head dim " + std::to_string(a.dim) +
                              " take more shared memory than a block of threads has");
  }
}

}  // namespace weft::attention
