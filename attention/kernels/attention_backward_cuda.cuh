#pragma once

// The backward kernels of all attention, from recomputed probabilities:
//   P = exp(scale S - L),  dS = P (dout V^T - delta),  delta = <dout, o>
//   dV = P^T dout,  dK = scale dS^T Q,  dQ = scale dS K
// One kernel has a tile of keys and meets the query rows that see or list them, the other a tile of
// query rows and meets their keys. Nobody adds to what another block of threads adds to, so that
// results are the same in every run.
#include "kernels/attention_cuda.cuh"

namespace weft::attention::gpu {

/// How the warps of a tiling share a result whose rows are keys.
template <class TileIn, int kWarpsMIn, int kWarpsNIn>
struct BackwardTiling : TileIn {
  using Tile = TileIn;
  static constexpr int kSumWarpsM = kWarpsMIn, kSumWarpsN = kWarpsNIn;
  static constexpr int kSumTilesM = Tile::kKeys / kSumWarpsM / 16;
  static constexpr int kSumTilesN = Tile::kColumns / kSumWarpsN / 8;
  static_assert(kSumWarpsM * kSumWarpsN * 32 == Tile::kThreads && kSumTilesM >= 1 &&
                kSumTilesN % 2 == 0);
};

/// Where the tiles of one block of threads lie in shared memory.
template <class T, class Tile>
struct BackwardMemory {
  size_t dout_at, keys_at, values_at, weights_at, gradients_at, statistics_at, places_at, bytes;
  int key_stride, value_stride;

  __host__ __device__ explicit BackwardMemory(const Problem& p) {
    constexpr int64_t kSize = sizeof(T);
    constexpr int64_t kWeights = Tile::kRows * (Tile::kKeys + kRowPad<T>)*kSize;
    key_stride = padded(p.dim) + kRowPad<T>;
    value_stride = padded(p.value_dim) + kRowPad<T>;
    dout_at = Tile::kRows * key_stride * kSize;
    keys_at = dout_at + Tile::kRows * value_stride * kSize;
    values_at = keys_at + Tile::kKeys * key_stride * kSize;
    weights_at = values_at + Tile::kKeys * value_stride * kSize;
    gradients_at = weights_at + kWeights;
    statistics_at = gradients_at + kWeights;
    places_at = statistics_at + 2 * Tile::kRows * static_cast<int64_t>(sizeof(sum_t<T>));
    bytes = places_at + (4 * Tile::kRows + Tile::kKeys) * static_cast<int64_t>(sizeof(int));
  }
};

/// Pointers into shared memory, as both kernels use it.
template <class T, class Tile>
struct BackwardTiles {
  static constexpr int kWeightStride = Tile::kKeys + kRowPad<T>;
  T *q, *dout, *k, *v, *weights, *gradients;
  sum_t<T>*lse, *delta;                              // [rows]; lse times log2(e)
  int *row_token, *row_head, *row_first, *row_last;  // [rows]; keys that a row sees
  int* keys;
  int key_stride, value_stride;

  __device__ BackwardTiles(unsigned char* memory, const Problem& p) {
    const BackwardMemory<T, Tile> lies(p);
    q = reinterpret_cast<T*>(memory);
    dout = reinterpret_cast<T*>(memory + lies.dout_at);
    k = reinterpret_cast<T*>(memory + lies.keys_at);
    v = reinterpret_cast<T*>(memory + lies.values_at);
    weights = reinterpret_cast<T*>(memory + lies.weights_at);
    gradients = reinterpret_cast<T*>(memory + lies.gradients_at);
    lse = reinterpret_cast<sum_t<T>*>(memory + lies.statistics_at);
    delta = lse + Tile::kRows;
    row_token = reinterpret_cast<int*>(memory + lies.places_at);
    row_head = row_token + Tile::kRows;
    row_first = row_head + Tile::kRows;
    row_last = row_first + Tile::kRows;
    keys = row_last + Tile::kRows;
    key_stride = lies.key_stride;
    value_stride = lies.value_stride;
  }

  /// What is known of row r: token -1 where there is none.
  __device__ void set_row(const BackwardProblem& p, int batch, int r, int token, int head) {
    row_token[r] = token;
    row_head[r] = head;
    row_first[r] = 0;
    row_last[r] = 0;
    lse[r] = 0;
    delta[r] = 0;
    if (token < 0) return;
    const Seen seen(p, token);
    row_first[r] = seen.first;
    row_last[r] = seen.last;
    const int64_t index = p.statistics_at(batch, head, token);
    lse[r] = static_cast<const sum_t<T>*>(p.lse)[index] * kLog2e<sum_t<T>>;
    delta[r] = static_cast<const sum_t<T>*>(p.delta)[index];
  }

  __device__ void copy_queries(const BackwardProblem& p, int batch) {
    copy_rows<T, Tile::kRows, Tile::kThreads>(
        q, key_stride, padded(p.dim), p.dim, p.q.vectors, p.q.data, [&](int r) {
          return row_token[r] < 0 ? nullptr : p.q.at<T>(batch, row_token[r], row_head[r]);
        });
    copy_rows<T, Tile::kRows, Tile::kThreads>(
        dout, value_stride, padded(p.value_dim), p.value_dim, p.dout.vectors, p.dout.data,
        [&](int r) {
          return row_token[r] < 0 ? nullptr : p.dout.at<T>(batch, row_token[r], row_head[r]);
        });
  }

  __device__ void copy_keys(const BackwardProblem& p, int batch, int kv_head) {
    copy_rows<T, Tile::kKeys, Tile::kThreads>(
        k, key_stride, padded(p.dim), p.dim, p.k.vectors, p.k.data,
        [&](int j) { return keys[j] < 0 ? nullptr : p.k.at<T>(batch, keys[j], kv_head); });
    copy_rows<T, Tile::kKeys, Tile::kThreads>(
        v, value_stride, padded(p.value_dim), p.value_dim, p.v.vectors, p.v.data,
        [&](int j) { return keys[j] < 0 ? nullptr : p.v.at<T>(batch, keys[j], kv_head); });
  }

  /// P, where wanted, and dS of the tiles that have been copied.
  template <bool kWeights>
  __device__ void differentiate(const BackwardProblem& p) {
    using A = sum_t<T>;
    const int warp = static_cast<int>(threadIdx.x) / 32;
    const int row0 = warp / Tile::kWarpsN * Tile::kTilesM * 16;
    const int key0 = warp % Tile::kWarpsN * Tile::kKeyTiles * 8;
    Fragment<T, Tile::kTilesM, Tile::kKeyTiles> scores, products;
    scores.clear();
    products.clear();
    multiply<T, Lies::along, Lies::along>(scores, q + row0 * key_stride, key_stride,
                                          k + key0 * key_stride, key_stride, padded(p.dim));
    multiply<T, Lies::along, Lies::along>(products, dout + row0 * value_stride, value_stride,
                                          v + key0 * value_stride, value_stride,
                                          padded(p.value_dim));
    const A c = static_cast<A>(p.scale) * kLog2e<A>;
#pragma unroll
    for (int i = 0; i < Tile::kTilesM; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = row0 + fragment_row(i, half);
        const A shift = lse[row], mean = delta[row];
        const int first = row_first[row], last = row_last[row];
#pragma unroll
        for (int j = 0; j < Tile::kKeyTiles; ++j) {
          A weight[2], gradient[2];
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            const int key = keys[key0 + fragment_column(j, e)];
            const bool sees = key >= first && key < last;
            weight[e] = sees ? power_of_two<T>(scores.v[i][j][2 * half + e] * c - shift) : A(0);
            gradient[e] = sees ? weight[e] * (products.v[i][j][2 * half + e] - mean) : A(0);
          }
          const int at = row * kWeightStride + key0 + fragment_column(j, 0);
          if constexpr (kWeights) store_pair(weights + at, weight[0], weight[1]);
          store_pair(gradients + at, gradient[0], gradient[1]);
        }
      }
    }
  }
};

/// The query rows that meet a tile of keys, as places [first, last): rows of all queries, or of the
/// tiles that list the block of the keys.
struct RowPlaces {
  int64_t first = 0, last = 0;
  const int32_t* readers = nullptr;

  __device__ RowPlaces(const BackwardProblem& p, int batch, int kv_head, int key, int keys,
                       int64_t block, int64_t blocks) {
    if (p.selected) {
      const int64_t list =
          (static_cast<int64_t>(batch) * p.list_groups + kv_head / p.heads_per_list) * blocks +
          block;
      readers = p.readers + p.reader_offsets[list];
      last = (p.reader_offsets[list + 1] - p.reader_offsets[list]) * p.query_tile * p.group;
      return;
    }
    int64_t begin = 0, end = p.queries;
    if (p.causal) {
      begin = key * p.key_stride + p.key_length - 1 - p.position;
      begin = begin < 0 ? 0 : begin;
    }
    if (p.window > 0) {
      const int64_t past = key + keys - 1 + p.window - p.position;
      end = past < end ? past : end;
    }
    if (begin < end) {
      first = begin * p.group;
      last = end * p.group;
    }
  }

  /// The token at a place, or -1.
  __device__ int token(const BackwardProblem& p, int64_t place) const {
    if (place >= last) return -1;
    if (readers == nullptr) return static_cast<int>(place / p.group);
    const int64_t rows = p.query_tile * p.group;
    const int64_t token = p.tile_begin(readers[place / rows]) + place % rows / p.group;
    return token >= 0 && token < p.queries ? static_cast<int>(token) : -1;
  }
};

template <class T, class Tile>
__global__ void __launch_bounds__(Tile::kThreads)
    attention_backward_keys_kernel(const BackwardProblem p) {
  constexpr int kRows = Tile::kRows, kKeys = Tile::kKeys, kThreads = Tile::kThreads;
  extern __shared__ __align__(16) unsigned char memory[];
  BackwardTiles<T, Tile> tiles(memory, p);
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32;

  // The first keys, which most rows see under a causal mask, go first.
  const int pairs = p.batch * p.kv_heads;
  const int pair = static_cast<int>(blockIdx.x) % pairs;
  const int batch = pair / p.kv_heads, kv_head = pair % p.kv_heads;
  const int piece = static_cast<int>(blockIdx.x) / pairs;
  const int pieces_of_block = p.selected ? (p.key_block + kKeys - 1) / kKeys : 1;
  const int block = piece / pieces_of_block;
  int first = piece * kKeys, end = p.keys;
  if (p.selected) {
    first = block * p.key_block + piece % pieces_of_block * kKeys;
    end = p.keys < (block + 1) * p.key_block ? p.keys : (block + 1) * p.key_block;
  }
  const int count = end - first < kKeys ? end - first : kKeys;
  if (count <= 0) return;
  const int column0 = static_cast<int>(blockIdx.y) * Tile::kColumns;
  const RowPlaces places(p, batch, kv_head, first, count, block,
                         p.selected ? (p.keys + p.key_block - 1) / p.key_block : 0);

  for (int j = thread; j < kKeys; j += kThreads) tiles.keys[j] = j < count ? first + j : -1;
  __syncthreads();
  tiles.copy_keys(p, batch, kv_head);
  end_copies();

  const int row0 = warp / Tile::kSumWarpsN * Tile::kSumTilesM * 16;  // among keys
  const int warp_column = column0 + warp % Tile::kSumWarpsN * Tile::kSumTilesN * 8;
  Fragment<T, Tile::kSumTilesM, Tile::kSumTilesN> dk, dv;
  dk.clear();
  dv.clear();
  for (int64_t place = places.first; place < places.last; place += kRows) {
    for (int r = thread; r < kRows; r += kThreads) {
      const int64_t at = place + r;
      tiles.set_row(p, batch, r, places.token(p, at),
                    kv_head * p.group + static_cast<int>(at % p.group));
    }
    __syncthreads();
    tiles.copy_queries(p, batch);
    end_copies();
    wait_for_copies<0>();
    __syncthreads();
    tiles.template differentiate<true>(p);
    __syncthreads();
    multiply<T, Lies::across, Lies::across>(dv, tiles.weights + row0, tiles.kWeightStride,
                                            tiles.dout + warp_column, tiles.value_stride, kRows,
                                            padded(p.value_dim) - warp_column);
    multiply<T, Lies::across, Lies::across>(dk, tiles.gradients + row0, tiles.kWeightStride,
                                            tiles.q + warp_column, tiles.key_stride, kRows,
                                            padded(p.dim) - warp_column);
    __syncthreads();
  }
  wait_for_copies<0>();

  const auto scale = static_cast<sum_t<T>>(p.scale);
#pragma unroll
  for (int i = 0; i < Tile::kSumTilesM; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int j = row0 + fragment_row(i, half);
      if (j >= count) continue;
      T* const dk_row = p.dk.writable<T>(batch, first + j, kv_head);
      T* const dv_row = p.dv.writable<T>(batch, first + j, kv_head);
#pragma unroll
      for (int n = 0; n < Tile::kSumTilesN; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int column = warp_column + fragment_column(n, e);
          if (column < p.dim) dk_row[column] = narrow<T>(dk.v[i][n][2 * half + e] * scale);
          if (column < p.value_dim) dv_row[column] = narrow<T>(dv.v[i][n][2 * half + e]);
        }
      }
    }
  }
}

template <class T, class Tile>
__global__ void __launch_bounds__(Tile::kThreads)
    attention_backward_queries_kernel(const BackwardProblem p) {
  constexpr int kRows = Tile::kRows, kKeys = Tile::kKeys, kThreads = Tile::kThreads;
  extern __shared__ __align__(16) unsigned char memory[];
  BackwardTiles<T, Tile> tiles(memory, p);
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32;
  const int64_t units = p.units();
  const int piece = static_cast<int>(gridDim.x / units - 1 - blockIdx.x / units);
  const RowTile rows(p, blockIdx.x % units, piece * kRows, kRows);
  if (rows.rows == 0) return;
  const KeyPlaces places(p, rows, kKeys, 0, 0);

  for (int r = thread; r < kRows; r += kThreads) {
    const bool there = r < rows.rows;
    tiles.set_row(p, rows.batch, r, there ? rows.token(p, r) : -1, there ? rows.head(p, r) : 0);
  }
  __syncthreads();
  tiles.copy_queries(p, rows.batch);
  end_copies();

  const int column0 = static_cast<int>(blockIdx.y) * Tile::kColumns;
  const int row0 = warp / Tile::kWarpsN * Tile::kTilesM * 16;
  const int warp_column = column0 + warp % Tile::kWarpsN * Tile::kColumnTiles * 8;
  Fragment<T, Tile::kTilesM, Tile::kColumnTiles> dq;
  dq.clear();
  for (int place = places.first; place < places.last; place += kKeys) {
    for (int j = thread; j < kKeys; j += kThreads) tiles.keys[j] = places.key(place + j);
    __syncthreads();
    tiles.copy_keys(p, rows.batch, rows.kv_head);
    end_copies();
    wait_for_copies<0>();
    __syncthreads();
    tiles.template differentiate<false>(p);
    __syncthreads();
    multiply<T, Lies::along, Lies::across>(dq, tiles.gradients + row0 * tiles.kWeightStride,
                                           tiles.kWeightStride, tiles.k + warp_column,
                                           tiles.key_stride, kKeys, padded(p.dim) - warp_column);
    __syncthreads();
  }
  wait_for_copies<0>();

  const auto scale = static_cast<sum_t<T>>(p.scale);
#pragma unroll
  for (int i = 0; i < Tile::kTilesM; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = row0 + fragment_row(i, half);
      if (row >= rows.rows) continue;
      T* const to = p.dq.writable<T>(rows.batch, tiles.row_token[row], tiles.row_head[row]);
#pragma unroll
      for (int j = 0; j < Tile::kColumnTiles; ++j) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int column = warp_column + fragment_column(j, e);
          if (column < p.dim) to[column] = narrow<T>(dq.v[i][j][2 * half + e] * scale);
        }
      }
    }
  }
}

/// delta = <dout, o>, one row a warp.
template <class T>
__global__ void attention_delta_kernel(const BackwardProblem p) {
  const int64_t index = blockIdx.x * static_cast<int64_t>(blockDim.x / 32) + threadIdx.x / 32;
  if (index >= static_cast<int64_t>(p.batch) * p.heads * p.queries) return;
  // Heads of a token lie side by side.
  const int h = static_cast<int>(index % p.heads);
  const int t = static_cast<int>(index / p.heads % p.queries);
  const int b = static_cast<int>(index / p.heads / p.queries);
  const T* const dout = p.dout.at<T>(b, t, h);
  const T* const o = p.o.at<T>(b, t, h);
  sum_t<T> sum = 0;
  for (int e = lane_index(); e < p.value_dim; e += 32) sum += widen(dout[e]) * widen(o[e]);
  sum = warp_sum(sum);
  if (lane_index() == 0) static_cast<sum_t<T>*>(p.delta)[p.statistics_at(b, h, t)] = sum;
}

/// Runs both kernels with one tiling if its tiles fit in shared memory.
template <class T, class Tile>
bool try_backward(const char* op, const BackwardProblem& p, Stream stream) {
  const BackwardMemory<T, Tile> lies(p);
  if (lies.bytes > most_shared_bytes(stream)) return false;
  const int64_t pairs = static_cast<int64_t>(p.batch) * p.kv_heads;
  const int64_t pieces = p.selected
                             ? ceil_div(p.keys, p.key_block) * ceil_div(p.key_block, Tile::kKeys)
                             : ceil_div(p.keys, Tile::kKeys);
  if (pairs * pieces > 0) {
    const int wider = p.dim > p.value_dim ? p.dim : p.value_dim;
    launch(op, stream,
           {{grid_size(op, pairs * pieces), static_cast<unsigned>(ceil_div(wider, Tile::kColumns))},
            Tile::kThreads,
            lies.bytes},
           attention_backward_keys_kernel<T, Tile>, p);
  }
  const int64_t blocks = p.units() * ceil_div(p.rows_of_unit(), Tile::kRows);
  if (blocks > 0) {
    launch(op, stream,
           {{grid_size(op, blocks), static_cast<unsigned>(ceil_div(p.dim, Tile::kColumns))},
            Tile::kThreads,
            lies.bytes},
           attention_backward_queries_kernel<T, Tile>, p);
  }
  return true;
}

template <class Element>
void run_backward(const char* op, const BackwardProblem& p, Stream stream) {
  using T = native_t<Element>;
  const int64_t rows = static_cast<int64_t>(p.batch) * p.heads * p.queries;
  if (rows > 0) {
    launch(op, stream, {grid_size(op, ceil_div(rows, 8)), 256}, attention_delta_kernel<T>, p);
  }
  const auto run = [&]<class Tile>(Tile) { return try_backward<T, Tile>(op, p, stream); };
  bool fits = false;
  if constexpr (!std::is_same_v<T, double>) {
    if (p.dim <= 64 && p.value_dim <= 64) {
      fits = run(BackwardTiling<Tiling<64, 64, 64, 2, 4>, 2, 4>{});
    } else {
      fits = run(BackwardTiling<Tiling<64, 64, 128, 2, 4>, 2, 4>{});
    }
  }
  fits = fits || run(BackwardTiling<Tiling<16, 32, 64, 1, 4>, 2, 2>{});
  if (!fits) throw_too_wide(op, p);
}

}  // namespace weft::attention::gpu
