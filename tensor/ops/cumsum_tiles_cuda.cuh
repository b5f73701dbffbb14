#pragma once

// Running sums in one reading: blocks take tiles in the order of summing, hand the sums of their
// tiles to later blocks, and add up those of all tiles before. A block never waits for a result,
// only for sums that others make without waiting, and adds them in an order that shapes alone
// decide, so that results repeat to the bit.
#include <algorithm>

#include "cuda/async_copy.cuh"
#include "cuda/marked_value.cuh"
#include "cuda/pairs.cuh"
#include "ops/rows_cuda.cuh"

namespace weft::cuda {

/// What sums are kept in, as on the CPU: f64 or wrapping integers.
template <class Out>
using total_t = std::conditional_t<std::is_integral_v<Out>, unsigned long long, double>;

/// What is summed within a tile. To the precision of a half type, f32 will do there.
template <class T>
using tile_sum_t = std::conditional_t<sizeof(T) == 2, float, total_t<T>>;

inline constexpr int kTileThreads = 256;

/// Marked words of a sum; its place starts at their size.
template <class A>
inline constexpr int kSumWords = static_cast<int>(sizeof(A) / 4);

/// Hands a sum on. The place has held zero so far.
template <class A>
__device__ __forceinline__ void hand_on(Marked* to, A sum) {
  uint32_t words[kSumWords<A>];
  memcpy(words, &sum, sizeof sum);
#pragma unroll
  for (int i = 0; i < kSumWords<A>; ++i) store_marked(to + i, words[i], 1);
}

/// A sum that has been asked for at its place and may not have been there yet.
template <class A>
struct AskedSum {
  Marked found[kSumWords<A>];

  __device__ __forceinline__ void ask(const Marked* from) {
#pragma unroll
    for (int i = 0; i < kSumWords<A>; ++i) found[i] = peek_marked(from + i);
  }
  __device__ __forceinline__ A await(const Marked* from) const {
    uint32_t words[kSumWords<A>];
#pragma unroll
    for (int i = 0; i < kSumWords<A>; ++i) words[i] = await_marked(from + i, found[i], 1);
    A sum;
    memcpy(&sum, words, sizeof sum);
    return sum;
  }
};

/// Adds up the sums numbered first, first + step, ... below `end`, kAhead of which are asked for at
/// a time; number i lies at from + i * pitch.
template <int kAhead, class A, class Total>
__device__ __forceinline__ Total add_handed(const Marked* from, int64_t pitch, int64_t first,
                                            int64_t step, int64_t end) {
  Total total = 0;
  for (int64_t i = first; i < end; i += kAhead * step) {
    AskedSum<A> sums[kAhead];
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      if (i + j * step < end) sums[j].ask(from + (i + j * step) * pitch);
    }
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      if (i + j * step < end) {
        total += static_cast<Total>(sums[j].await(from + (i + j * step) * pitch));
      }
    }
  }
  return total;
}

/// Where a tile stands among the groups of a line or a strip. Tiles hand on their sums, and the
/// last one of a group hands on that of the group, so that few have to be added up.
template <int kGroup>
struct PlaceInGroup {
  int64_t group, first, number;  // its group, the first tile of this, and how many are before it
  bool is_last;

  __device__ __forceinline__ explicit PlaceInGroup(int64_t tile)
      : group(tile / kGroup),
        first(group * kGroup),
        number(tile - first),
        is_last(number == kGroup - 1) {}
};
inline constexpr int kGroupOfLine = 32;
inline constexpr int kGroupOfStrip = 32;

/// The number of this block in the order in which blocks have started: whoever has a lower one runs
/// or is done.
__device__ __forceinline__ uint32_t take_ticket(Marked* tickets) {
  __shared__ uint32_t ticket;
  if (threadIdx.x == 0) ticket = static_cast<uint32_t>(atomicAdd(tickets, 1ull));
  __syncthreads();
  return ticket;
}

/// Makes the compiler take elements apart again where they are used next, instead of keeping them
/// in twice as many registers or more.
template <class T, int kWidth>
__device__ __forceinline__ void keep_packed(Pack<T, kWidth>& pack) {
  uint32_t words[sizeof(pack) / 4];
  memcpy(words, &pack, sizeof pack);
#pragma unroll
  for (uint32_t& word : words) asm volatile("" : "+r"(word));
  memcpy(&pack, words, sizeof pack);
}

/// Lines of elements of T that can be read and written in 16 bytes.
template <class T>
struct Lines {
  const T* x;
  T* y;
  int64_t count, length;
  bool exclusive, reverse;

  /// Where the pack at `at` in the order of summing lies in its line.
  __device__ __forceinline__ int64_t place(int64_t at) const {
    return reverse ? length - kPackWidth<T> - at : at;
  }
};

/// kPacks neighbouring packs for each lane of a warp, which wait in shared memory.
template <class T, int kPackCount>
class LineSegment {
 public:
  using Sum = tile_sum_t<T>;
  static constexpr int kWidth = kPackWidth<T>;
  static constexpr int kPacks = kPackCount;
  static constexpr int64_t kLength = int64_t{kPacks} * 32 * kWidth;
  using Slots = Pack<T, kWidth>[kPacks][kTileThreads];  // of a block

  /// Asks for the packs.
  __device__ __forceinline__ LineSegment(const Lines<T>& lines, int64_t line, int64_t begin,
                                         Slots& slots)
      : lines_(lines), slots_(slots), line_(line), begin_(begin) {
    const T* const from = lines.x + line * lines.length;
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      if (at(p) < lines.length) copy_pack_async(&slots[p][threadIdx.x], from + lines.place(at(p)));
    }
    end_copy_group();
  }

  /// The sum of the segment, for all lanes; called once, before write().
  __device__ __forceinline__ Sum sum() const {
    wait_for_copy_groups<0>();
    Sum total = 0;
#pragma unroll
    for (int p = 0; p < kPacks; ++p) total += sum_of(pack(p));
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) total += shuffle_xor(total, mask);
    return total;
  }

  /// Writes the sums, of which `carry` is before the segment.
  __device__ __forceinline__ void write(total_t<T> carry) const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    T* const to = lines_.y + line_ * lines_.length;
    Sum before_pack = 0;  // of the segment
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      const auto elements = pack(p);
      Sum up_to = sum_of(elements);
#pragma unroll
      for (int distance = 1; distance < 32; distance *= 2) {
        const Sum other = __shfl_up_sync(0xffffffffu, up_to, distance);
        if (lane >= distance) up_to += other;
      }
      const Sum others = __shfl_up_sync(0xffffffffu, up_to, 1);
      const Sum before = before_pack + (lane == 0 ? Sum(0) : others);
      before_pack += __shfl_sync(0xffffffffu, up_to, 31);
      if (at(p) >= lines_.length) continue;
      auto running = static_cast<Sum>(carry + static_cast<total_t<T>>(before));
      computed_t<T> values[kWidth];
      unpack(elements, values);
#pragma unroll
      for (int k = 0; k < kWidth; ++k) {
        const Sum earlier = running;
        running += static_cast<Sum>(values[k]);
        values[k] = static_cast<computed_t<T>>(lines_.exclusive ? earlier : running);
      }
      auto results = packed<T>(values);
      if (lines_.reverse) results = turned(results);
      store_pack(to + lines_.place(at(p)), results);
    }
  }

 private:
  __device__ __forceinline__ int64_t at(int p) const {
    return begin_ + (p * 32 + static_cast<int>(threadIdx.x) % 32) * kWidth;
  }
  /// Zeros beyond the line.
  __device__ __forceinline__ Pack<T, kWidth> pack(int p) const {
    Pack<T, kWidth> result{};
    if (at(p) < lines_.length) result = slots_[p][threadIdx.x];
    return lines_.reverse ? turned(result) : result;
  }
  static __device__ __forceinline__ Sum sum_of(const Pack<T, kWidth>& pack) {
    computed_t<T> values[kWidth];
    unpack(pack, values);
    Sum sum = 0;
#pragma unroll
    for (int k = 0; k < kWidth; ++k) sum += static_cast<Sum>(values[k]);
    return sum;
  }
  static __device__ __forceinline__ Pack<T, kWidth> turned(const Pack<T, kWidth>& pack) {
    Pack<T, kWidth> result;
#pragma unroll
    for (int k = 0; k < kWidth; ++k) result.values[k] = pack.values[kWidth - 1 - k];
    return result;
  }

  const Lines<T>& lines_;
  Slots& slots_;
  int64_t line_, begin_;
};

/// A warp takes a line.
template <class T>
__global__ void __launch_bounds__(kTileThreads) cumsum_of_warps(const Lines<T> lines) {
  using Segment = LineSegment<T, 4>;
  __shared__ typename Segment::Slots slots;
  const int64_t line = static_cast<int64_t>(blockIdx.x) * (kTileThreads / 32) + threadIdx.x / 32;
  if (line >= lines.count) return;
  total_t<T> carry = 0;
  for (int64_t begin = 0; begin < lines.length; begin += Segment::kLength) {
    const Segment segment(lines, line, begin, slots);
    const auto sum = segment.sum();
    segment.write(carry);
    carry += static_cast<total_t<T>>(sum);
  }
}

/// Segments of the tiles of lines.
template <class T>
using TileSegment = LineSegment<T, 8>;

/// A block takes a tile of a line, its warps a segment each. Tickets go through the first tiles of
/// all lines, then through the second ones, so that those before a tile are ahead of it.
template <class T>
__global__ void __launch_bounds__(kTileThreads, 5)
    cumsum_of_tiles(const Lines<T> lines, uint32_t tiles, Marked* tickets, Marked* board) {
  using Segment = TileSegment<T>;
  using Total = total_t<T>;
  constexpr int kWarps = kTileThreads / 32;
  constexpr int kWords = kSumWords<Total>;
  __shared__ typename Segment::Slots slots;
  __shared__ Total of_warp[kWarps];
  __shared__ Total of_tiles_before;
  const uint32_t ticket = take_ticket(tickets);
  const auto count = static_cast<uint32_t>(lines.count);
  const int64_t tile = ticket / count;
  const int64_t line = ticket - static_cast<uint32_t>(tile) * count;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const Segment segment(lines, line, (tile * kWarps + warp) * Segment::kLength, slots);
  const auto of_segment = static_cast<Total>(segment.sum());
  if (threadIdx.x % 32 == 0) of_warp[warp] = of_segment;
  __syncthreads();
  Total before = 0;
  Total whole = 0;
#pragma unroll
  for (int other = 0; other < kWarps; ++other) {
    if (other == warp) before = whole;
    whole += of_warp[other];
  }
  if (tiles > 1) {
    if (warp == 0) {
      // One warp asks alone: many askers would keep those waiting who have something to tell.
      const int lane = static_cast<int>(threadIdx.x);
      Marked* const of_tiles =
          board + line * (int64_t{tiles} + ceil_div(tiles, kGroupOfLine)) * kWords;
      Marked* const of_groups = of_tiles + int64_t{tiles} * kWords;
      if (lane == 0) hand_on(of_tiles + tile * kWords, whole);
      const PlaceInGroup<kGroupOfLine> range(tile);
      static_assert(kGroupOfLine <= 32);
      const Marked* const near_place = of_tiles + (range.first + lane) * kWords;
      const Marked* const far_place = of_groups + lane * kWords;
      AskedSum<Total> asked_near;
      AskedSum<Total> asked_far;
      if (lane < range.number) asked_near.ask(near_place);
      if (lane < range.group) asked_far.ask(far_place);
      Total near = lane < range.number ? asked_near.await(near_place) : Total(0);
#pragma unroll
      for (int mask = 16; mask > 0; mask /= 2) near += shuffle_xor(near, mask);
      if (range.is_last && lane == 0) hand_on(of_groups + range.group * kWords, near + whole);
      Total far = lane < range.group ? asked_far.await(far_place) : Total(0);
      far += add_handed<4, Total, Total>(of_groups, kWords, lane + 32, 32, range.group);
#pragma unroll
      for (int mask = 16; mask > 0; mask /= 2) far += shuffle_xor(far, mask);
      if (lane == 0) of_tiles_before = near + far;
    }
    __syncthreads();
    before += of_tiles_before;
  }
  segment.write(before);
}

/// Dense [outer, length, inner] of which `inner` is of whole packs, in strips of 8 packs.
template <class T>
struct ColumnStrips {
  const T* x;
  T* y;
  int64_t packs;  // of all columns
  int64_t length, inner;
  int64_t strips, tiles;  // of `tiles` each
  bool exclusive, reverse;
};

/// Rows of a thread in a tile, and of a tile.
inline constexpr int kRowsOfThread = 8;
inline constexpr int kRowsOfTile = kRowsOfThread * kTileThreads / 8;
/// Blocks of a multiprocessor.
inline constexpr int kStripBlocks = 2;

/// Where a thread reads and writes in a tile of a strip.
struct PlaceInStrip {
  int64_t offset, step;  // of its first row, and from row to row
  int64_t left;          // rows from its first one on; none beside the last column

  template <class T>
  __device__ __forceinline__ PlaceInStrip(const ColumnStrips<T>& p, int64_t tile, int64_t strip) {
    constexpr int kWidth = kPackWidth<T>;
    const int thread = static_cast<int>(threadIdx.x);
    const int64_t pack = strip * 8 + thread % 8;
    const int64_t first_row = tile * kRowsOfTile + thread / 8 * kRowsOfThread;
    const int64_t outer = pack * kWidth / p.inner;
    offset = outer * p.length * p.inner + (pack * kWidth - outer * p.inner) +
             (p.reverse ? p.length - 1 - first_row : first_row) * p.inner;
    step = p.reverse ? -p.inner : p.inner;
    left = pack < p.packs ? p.length - first_row : 0;
  }
};

/// Blocks take tiles of strips one after the other, the next of which is on its way while they wait
/// for sums: 8 threads beside each other, 32 below each other.
template <class T>
__global__ void __launch_bounds__(kTileThreads, kStripBlocks)
    cumsum_of_strips(const ColumnStrips<T> p, Marked* tickets, Marked* board) {
  using Sum = tile_sum_t<T>;
  using Total = total_t<T>;
  constexpr int kWidth = kPackWidth<T>;
  constexpr int kColumns = 8 * kWidth;
  constexpr int kGroups = kTileThreads / 8;         // of rows
  constexpr int kShares = kTileThreads / kColumns;  // of the groups, a thread's each
  constexpr int kShare = kGroups / kShares;
  constexpr int kWords = kSumWords<Sum>;
  __shared__ Sum before_group[kGroups][kColumns];
  __shared__ Total of_share[kShares][kColumns];
  __shared__ Total near[kShares][kColumns];
  __shared__ Total far[kShares][kColumns];
  __shared__ Pack<T, kWidth> slots[kRowsOfThread][kTileThreads];
  __shared__ uint32_t shared_ticket;
  const int thread = static_cast<int>(threadIdx.x);
  const int group = thread / 8;
  const auto strips = static_cast<uint32_t>(p.strips);
  const uint32_t all = strips * static_cast<uint32_t>(p.tiles);
  const auto fetch = [&](uint32_t ticket) {
    const PlaceInStrip place(p, ticket / strips, ticket % strips);
#pragma unroll
    for (int row = 0; row < kRowsOfThread; ++row) {
      if (row < place.left) {
        copy_pack_async(&slots[row][thread], p.x + place.offset + row * place.step);
      }
    }
    end_copy_group();
  };
  uint32_t ticket = take_ticket(tickets);
  if (ticket < all) fetch(ticket);
  while (ticket < all) {
    const int64_t tile = ticket / strips;
    const int64_t strip = ticket % strips;
    const PlaceInStrip place(p, tile, strip);
    wait_for_copy_groups<0>();
    Pack<T, kWidth> packs[kRowsOfThread];
#pragma unroll
    for (int row = 0; row < kRowsOfThread; ++row) {
      packs[row] = {};
      if (row < place.left) packs[row] = slots[row][thread];
    }
    {
      Sum own[kWidth] = {};
#pragma unroll
      for (int row = 0; row < kRowsOfThread; ++row) {
        computed_t<T> values[kWidth];
        unpack(packs[row], values);
#pragma unroll
        for (int k = 0; k < kWidth; ++k) own[k] += static_cast<Sum>(values[k]);
      }
#pragma unroll
      for (int k = 0; k < kWidth; ++k) before_group[group][thread % 8 * kWidth + k] = own[k];
    }
    __syncthreads();
    const int column = thread % kColumns;
    const int share = thread / kColumns;
    {
      Total sum = 0;
#pragma unroll
      for (int i = 0; i < kShare; ++i) {
        sum += static_cast<Total>(before_group[share * kShare + i][column]);
      }
      of_share[share][column] = sum;
    }
    __syncthreads();
    Total before_share = 0;
    Total whole = 0;
#pragma unroll
    for (int other = 0; other < kShares; ++other) {
      if (other == share) before_share = whole;
      whole += of_share[other][column];
    }
    const int64_t pitch = p.strips * kColumns * kWords;  // from tile to tile
    Marked* const of_tiles = board + (strip * kColumns + column) * kWords;
    if (p.tiles > 1 && share == 0) hand_on(of_tiles + tile * pitch, static_cast<Sum>(whole));
    // Not before: others wait for the sums of all lower tickets.
    if (thread == kTileThreads - 1) {
      shared_ticket = static_cast<uint32_t>(atomicAdd(tickets, Marked{1}));
    }
    __syncthreads();
    ticket = shared_ticket;
    if (ticket < all) fetch(ticket);
    Total earlier = 0;
    if (p.tiles > 1) {
      Marked* const of_groups = of_tiles + p.tiles * pitch;
      const PlaceInGroup<kGroupOfStrip> range(tile);
      near[share][column] = add_handed<4, Sum, Total>(of_tiles + range.first * pitch, pitch, share,
                                                      kShares, range.number);
      far[share][column] = add_handed<4, Sum, Total>(of_groups, pitch, share, kShares, range.group);
      __syncthreads();
      Total of_group = 0;
#pragma unroll
      for (int other = 0; other < kShares; ++other) {
        of_group += near[other][column];
        earlier += far[other][column];
      }
      earlier += of_group;
      if (range.is_last && share == 0) {
        hand_on(of_groups + range.group * pitch, static_cast<Sum>(of_group + whole));
      }
    }
    Total running = earlier + before_share;
#pragma unroll
    for (int i = 0; i < kShare; ++i) {
      Sum& sum = before_group[share * kShare + i][column];
      const auto own = static_cast<Total>(sum);
      sum = static_cast<Sum>(running);
      running += own;
    }
    __syncthreads();
    Sum sums[kWidth];
#pragma unroll
    for (int k = 0; k < kWidth; ++k) sums[k] = before_group[group][thread % 8 * kWidth + k];
#pragma unroll
    for (int row = 0; row < kRowsOfThread; ++row) {
      keep_packed(packs[row]);
      computed_t<T> values[kWidth];
      unpack(packs[row], values);
#pragma unroll
      for (int k = 0; k < kWidth; ++k) {
        const Sum before = sums[k];
        sums[k] += static_cast<Sum>(values[k]);
        values[k] = static_cast<computed_t<T>>(p.exclusive ? before : sums[k]);
      }
      if (row < place.left) store_pack(p.y + place.offset + row * place.step, packed<T>(values));
    }
  }
}

/// A ticket counter and the places of handed sums, all zero.
inline Tensor cumsum_board(int64_t words, Stream stream) {
  Tensor board = empty({words + 2}, DType::i64, stream.device());
  const DeviceGuard guard(stream.device().index);
  WEFT_CUDA_CHECK(cudaMemsetAsync(
      board.raw_data(), 0, static_cast<size_t>(board.numel()) * sizeof(Marked), native(stream)));
  return board;
}

template <class T>
void cumsum_of_lines(const Lines<T>& lines, Stream stream) {
  using Segment = TileSegment<T>;
  constexpr int64_t kManyLines = 4096;  // a warp each fills a GPU
  constexpr int64_t kTile = Segment::kLength * (kTileThreads / 32);
  const int64_t tiles = ceil_div(lines.length, kTile);
  const bool too_many = lines.count * tiles >= int64_t{1} << 31;
  if (lines.count >= kManyLines || lines.length <= Segment::kLength || too_many) {
    launch("cumsum", stream, {blocks_for(lines.count, kTileThreads / 32), kTileThreads},
           cumsum_of_warps<T>, lines);
    return;
  }
  constexpr int64_t kWords = kSumWords<total_t<T>>;
  Tensor board = cumsum_board(
      tiles > 1 ? lines.count * (tiles + ceil_div(tiles, kGroupOfLine)) * kWords : 0, stream);
  auto* const words = static_cast<Marked*>(board.raw_data());
  launch("cumsum", stream, {static_cast<unsigned>(lines.count * tiles), kTileThreads},
         cumsum_of_tiles<T>, lines, static_cast<uint32_t>(tiles), words, words + 2);
}

/// False where there are too many tiles.
template <class T>
bool cumsum_of_columns(const T* x, T* y, int64_t outer, int64_t length, int64_t inner,
                       bool exclusive, bool reverse, Stream stream) {
  constexpr int kWidth = kPackWidth<T>;
  const int64_t packs = outer * inner / kWidth;
  const ColumnStrips<T> p{
      x,         y,      packs, length, inner, ceil_div(packs, 8), ceil_div(length, kRowsOfTile),
      exclusive, reverse};
  if (p.strips * p.tiles >= int64_t{1} << 31) return false;
  constexpr int64_t kWords = 8 * kWidth * kSumWords<tile_sum_t<T>>;  // of a strip
  Tensor board = cumsum_board(
      p.tiles > 1 ? p.strips * (p.tiles + ceil_div(p.tiles, kGroupOfStrip)) * kWords : 0, stream);
  auto* const words = static_cast<Marked*>(board.raw_data());
  // As many as run at a time: they take tiles until there are no more.
  const int64_t blocks = int64_t{kStripBlocks} * device_context(stream.device()).multiprocessors();
  launch("cumsum", stream,
         {static_cast<unsigned>(std::min(blocks, p.strips * p.tiles)), kTileThreads},
         cumsum_of_strips<T>, p, words, words + 2);
  return true;
}

}  // namespace weft::cuda
