#pragma once

// The forward kernel of all attention: a block of threads has a tile of query rows and meets the
// keys of those rows tile by tile with an online softmax. Rows of the scores are shared by the
// warps of one row of warps; probabilities go through shared memory, so that the same warps then
// share the columns of the result.
#include "kernels/attention_cuda.cuh"

namespace weft::attention::gpu {

/// Where the tiles of one block of threads lie in shared memory.
template <class T, class Tile>
struct ForwardMemory {
  size_t keys_at, values_at, weights_at, exchange_at, places_at, bytes;
  int key_stride, value_stride;

  __host__ __device__ explicit ForwardMemory(const Problem& p) {
    constexpr int64_t kSize = sizeof(T);
    key_stride = p.key_width() + kRowPad<T>;
    const int columns = p.value_dim < Tile::kColumns ? padded(p.value_dim) : Tile::kColumns;
    value_stride = p.shares_values ? key_stride : columns + kRowPad<T>;
    keys_at = Tile::kRows * key_stride * kSize;
    values_at = keys_at + Tile::kKeys * key_stride * kSize;
    weights_at = values_at + (p.shares_values ? 0 : Tile::kKeys * value_stride * kSize);
    exchange_at = weights_at + Tile::kRows * (Tile::kKeys + kRowPad<T>)*kSize;
    places_at = exchange_at + Tile::kWarpsN * Tile::kRows * static_cast<int64_t>(sizeof(sum_t<T>));
    bytes = places_at + (2 * Tile::kKeys + 2 * Tile::kRows) * static_cast<int64_t>(sizeof(int));
  }
};

template <class T, class Tile>
__global__ void __launch_bounds__(Tile::kThreads)
    attention_forward_kernel(const Problem p, const ForwardPlan plan) {
  using A = sum_t<T>;
  constexpr int kRows = Tile::kRows, kKeys = Tile::kKeys, kThreads = Tile::kThreads;
  constexpr int kWeightStride = kKeys + kRowPad<T>;
  extern __shared__ __align__(16) unsigned char memory[];
  const ForwardMemory<T, Tile> lies(p);
  T* const q_tile = reinterpret_cast<T*>(memory);
  T* const k_tile = reinterpret_cast<T*>(memory + lies.keys_at);
  T* const weights = reinterpret_cast<T*>(memory + lies.weights_at);
  A* const exchange = reinterpret_cast<A*>(memory + lies.exchange_at);
  int* const keys_of = reinterpret_cast<int*>(memory + lies.places_at);  // [2][kKeys]
  int* const row_token = keys_of + 2 * kKeys;
  int* const row_head = row_token + kRows;

  const int column0 = static_cast<int>(blockIdx.y) * Tile::kColumns;
  const int columns =
      p.value_dim - column0 < Tile::kColumns ? p.value_dim - column0 : Tile::kColumns;
  T* const v_tile =
      p.shares_values ? k_tile + column0 : reinterpret_cast<T*>(memory + lies.values_at);

  // The last rows, which see most keys under a causal mask, go first.
  const int64_t units = p.units();
  const int piece = static_cast<int>(gridDim.x / units - 1 - blockIdx.x / units);
  const RowTile tile(p, blockIdx.x % units, piece * kRows, kRows);
  if (tile.rows == 0) return;
  const KeyPlaces places(p, tile, kKeys, static_cast<int>(blockIdx.z), plan.part_keys);
  const int steps = places.tiles(kKeys);

  const int thread = static_cast<int>(threadIdx.x), lane = lane_index(), warp = thread / 32;
  const int warp_m = warp / Tile::kWarpsN, warp_n = warp % Tile::kWarpsN;
  const int row0 = warp_m * Tile::kTilesM * 16;  // of the warp
  const int key0 = warp_n * Tile::kKeyTiles * 8;
  const int warp_column0 = warp_n * Tile::kColumnTiles * 8;

  for (int r = thread; r < kRows; r += kThreads) {
    row_token[r] = r < tile.rows ? tile.token(p, r) : -1;
    row_head[r] = r < tile.rows ? tile.head(p, r) : 0;
  }
  const auto list_keys = [&](int step) {
    for (int j = thread; j < kKeys; j += kThreads)
      keys_of[step % 2 * kKeys + j] = places.key(places.first + step * kKeys + j);
  };
  const auto copy_keys = [&](int step) {
    const int* const keys = keys_of + step % 2 * kKeys;
    copy_rows<T, kKeys, kThreads>(
        k_tile, lies.key_stride, padded(p.dim), p.dim, p.k.vectors, p.k.data, [&](int j) {
          return keys[j] < 0 ? nullptr : p.k.at<T>(tile.batch, keys[j], tile.kv_head);
        });
    if (p.second_dim > 0) {
      copy_rows<T, kKeys, kThreads>(
          k_tile + padded(p.dim), lies.key_stride, padded(p.second_dim), p.second_dim,
          p.k_second.vectors, p.k_second.data,
          [&](int j) { return keys[j] < 0 ? nullptr : p.k_second.at<T>(tile.batch, keys[j], 0); });
    }
  };
  const auto copy_values = [&](int step) {
    const int* const keys = keys_of + step % 2 * kKeys;
    copy_rows<T, kKeys, kThreads>(
        v_tile, lies.value_stride, padded(columns), columns, p.v.vectors, p.v.data, [&](int j) {
          return keys[j] < 0 ? nullptr : p.v.at<T>(tile.batch, keys[j], tile.kv_head) + column0;
        });
  };

  if (steps > 0) list_keys(0);
  __syncthreads();
  if (steps > 0) {
    copy_rows<T, kRows, kThreads>(
        q_tile, lies.key_stride, padded(p.dim), p.dim, p.q.vectors, p.q.data, [&](int r) {
          return row_token[r] < 0 ? nullptr : p.q.at<T>(tile.batch, row_token[r], row_head[r]);
        });
    if (p.second_dim > 0) {
      copy_rows<T, kRows, kThreads>(
          q_tile + padded(p.dim), lies.key_stride, padded(p.second_dim), p.second_dim,
          p.q_second.vectors, p.q_second.data, [&](int r) {
            return row_token[r] < 0 ? nullptr
                                    : p.q_second.at<T>(tile.batch, row_token[r], row_head[r]);
          });
    }
    copy_keys(0);
    end_copies();
    if (!p.shares_values) copy_values(0);
    end_copies();
  }

  Seen seen[Tile::kTilesM][2];
  A largest[Tile::kTilesM][2], sum[Tile::kTilesM][2];  // sum: of this thread's columns
#pragma unroll
  for (int i = 0; i < Tile::kTilesM; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int token = row_token[row0 + fragment_row(i, half)];
      if (token >= 0) seen[i][half] = Seen(p, token);
      largest[i][half] = -infinity<A>();
      sum[i][half] = 0;
    }
  }
  Fragment<T, Tile::kTilesM, Tile::kColumnTiles> output;
  output.clear();
  const A c = static_cast<A>(p.scale) * kLog2e<A>;

  for (int step = 0; step < steps; ++step) {
    // Keys are here; values may still be on their way, unless they are the keys.
    if (p.shares_values) {
      wait_for_copies<0>();
    } else {
      wait_for_copies<1>();
    }
    __syncthreads();
    Fragment<T, Tile::kTilesM, Tile::kKeyTiles> scores;
    scores.clear();
    multiply<T, Lies::along, Lies::along>(scores, q_tile + row0 * lies.key_stride, lies.key_stride,
                                          k_tile + key0 * lies.key_stride, lies.key_stride,
                                          p.key_width());
    const bool more = step + 1 < steps;
    if (more) list_keys(step + 1);
    const int* const keys = keys_of + step % 2 * kKeys;
    if (!all_seen<kKeys>(p, tile, keys)) {
#pragma unroll
      for (int j = 0; j < Tile::kKeyTiles; ++j) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int key = keys[key0 + fragment_column(j, e)];
#pragma unroll
          for (int i = 0; i < Tile::kTilesM; ++i) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
              if (!seen[i][half].contains(key)) scores.v[i][j][2 * half + e] = -infinity<A>();
            }
          }
        }
      }
    }
    A most[Tile::kTilesM][2];
#pragma unroll
    for (int i = 0; i < Tile::kTilesM; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        A m = -infinity<A>();
#pragma unroll
        for (int j = 0; j < Tile::kKeyTiles; ++j) {
          m = max(m, scores.v[i][j][2 * half]);
          m = max(m, scores.v[i][j][2 * half + 1]);
        }
        m = max(m, __shfl_xor_sync(0xffffffffu, m, 1));
        m = max(m, __shfl_xor_sync(0xffffffffu, m, 2));
        most[i][half] = m;
        if constexpr (Tile::kWarpsN > 1) {
          if (lane % 4 == 0) exchange[warp_n * kRows + row0 + fragment_row(i, half)] = m;
        }
      }
    }
    __syncthreads();
    if (!p.shares_values) {
      if (more) copy_keys(step + 1);
      end_copies();
    }

#pragma unroll
    for (int i = 0; i < Tile::kTilesM; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = row0 + fragment_row(i, half);
        A m = max(largest[i][half], most[i][half]);
        if constexpr (Tile::kWarpsN > 1) {
#pragma unroll
          for (int w = 0; w < Tile::kWarpsN; ++w) m = max(m, exchange[w * kRows + row]);
        }
        // A row that has seen no key yet must not compute inf - inf.
        const A shift = m == -infinity<A>() ? A(0) : m * c;
        const A factor = power_of_two<T>(largest[i][half] * c - shift);
        largest[i][half] = m;
        A total = 0;
#pragma unroll
        for (int j = 0; j < Tile::kKeyTiles; ++j) {
          const A x = power_of_two<T>(scores.v[i][j][2 * half] * c - shift);
          const A y = power_of_two<T>(scores.v[i][j][2 * half + 1] * c - shift);
          total += x + y;
          store_pair(weights + row * kWeightStride + key0 + fragment_column(j, 0), x, y);
        }
        sum[i][half] = sum[i][half] * factor + total;
#pragma unroll
        for (int j = 0; j < Tile::kColumnTiles; ++j) {
          output.v[i][j][2 * half] *= factor;
          output.v[i][j][2 * half + 1] *= factor;
        }
      }
    }
    wait_for_copies<1>();
    __syncthreads();
    multiply<T, Lies::along, Lies::across>(output, weights + row0 * kWeightStride, kWeightStride,
                                           v_tile + warp_column0, lies.value_stride, kKeys,
                                           padded(columns) - warp_column0);
    __syncthreads();
    if (more) {
      if (p.shares_values) {
        copy_keys(step + 1);
      } else {
        copy_values(step + 1);
      }
    }
    end_copies();
  }
  wait_for_copies<0>();

  // Sums of rows over the columns of all threads, in their order.
#pragma unroll
  for (int i = 0; i < Tile::kTilesM; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      A& total = sum[i][half];
      total += __shfl_xor_sync(0xffffffffu, total, 1);
      total += __shfl_xor_sync(0xffffffffu, total, 2);
      if (lane % 4 == 0) exchange[warp_n * kRows + row0 + fragment_row(i, half)] = total;
    }
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < Tile::kTilesM; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = row0 + fragment_row(i, half);
      const int t = row_token[row], h = row_head[row];
      if (t < 0) continue;
      A total = 0;
#pragma unroll
      for (int w = 0; w < Tile::kWarpsN; ++w) total += exchange[w * kRows + row];
      const int64_t index = p.statistics_at(tile.batch, h, t);
      const bool writes_statistics = column0 == 0 && warp_n == 0 && lane % 4 == 0;
      const auto for_each_column = [&](const auto& body) {
#pragma unroll
        for (int j = 0; j < Tile::kColumnTiles; ++j) {
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            const int column = warp_column0 + fragment_column(j, e);
            if (column < columns) body(column0 + column, output.v[i][j][2 * half + e]);
          }
        }
      };
      if (plan.partial_sums != nullptr) {
        const int64_t part = index * plan.parts + blockIdx.z;
        A* const to = static_cast<A*>(plan.partial_sums) + part * p.value_dim;
        if (total != 0) for_each_column([&](int column, A x) { to[column] = x; });
        if (writes_statistics) {
          A* const statistics = static_cast<A*>(plan.partial_statistics) + 2 * part;
          statistics[0] = largest[i][half];
          statistics[1] = total;
        }
      } else {
        const A normaliser = total == 0 ? A(0) : 1 / total;
        T* const to = p.o.writable<T>(tile.batch, t, h);
        for_each_column([&](int column, A x) { to[column] = narrow<T>(x * normaliser); });
        if (writes_statistics) {
          static_cast<A*>(p.lse)[index] =
              total == 0 ? infinity<A>() : largest[i][half] * static_cast<A>(p.scale) + log(total);
        }
      }
    }
  }
}

/// Merges the parts of one row of one warp, in order.
template <class T>
__global__ void merge_parts_kernel(const Problem p, const ForwardPlan plan) {
  using A = sum_t<T>;
  const int64_t index = blockIdx.x;
  const int t = static_cast<int>(index % p.queries);
  const int h = static_cast<int>(index / p.queries % p.heads);
  const int b = static_cast<int>(index / p.queries / p.heads);
  const A* const statistics =
      static_cast<const A*>(plan.partial_statistics) + 2 * index * plan.parts;
  const A* const sums = static_cast<const A*>(plan.partial_sums) + index * plan.parts * p.value_dim;
  const A c = static_cast<A>(p.scale) * kLog2e<A>;
  A largest = -infinity<A>();
  for (int part = 0; part < plan.parts; ++part) largest = max(largest, statistics[2 * part]);
  A total = 0;
  for (int part = 0; part < plan.parts; ++part) {
    if (statistics[2 * part + 1] != 0)
      total += exp2((statistics[2 * part] - largest) * c) * statistics[2 * part + 1];
  }
  T* const o = p.o.writable<T>(b, t, h);
  const A normaliser = total == 0 ? A(0) : 1 / total;
  for (int e = static_cast<int>(threadIdx.x); e < p.value_dim; e += static_cast<int>(blockDim.x)) {
    A sum = 0;
    for (int part = 0; part < plan.parts; ++part) {
      if (statistics[2 * part + 1] != 0)
        sum += exp2((statistics[2 * part] - largest) * c) *
               sums[static_cast<int64_t>(part) * p.value_dim + e];
    }
    o[e] = narrow<T>(sum * normaliser);
  }
  if (threadIdx.x == 0) {
    static_cast<A*>(p.lse)[index] =
        total == 0 ? infinity<A>() : largest * static_cast<A>(p.scale) + log(total);
  }
}

/// Runs the kernel with one tiling if its tiles fit in shared memory.
template <class T, class Tile>
bool try_forward(const char* op, const Problem& p, const ForwardPlan& plan, Stream stream) {
  const ForwardMemory<T, Tile> lies(p);
  if (lies.bytes > most_shared_bytes(stream)) return false;
  const unsigned blocks = grid_size(op, p.units() * ceil_div(p.rows_of_unit(), Tile::kRows));
  const auto chunks = static_cast<unsigned>(ceil_div(p.value_dim, Tile::kColumns));
  launch(op, stream,
         {{blocks, chunks, static_cast<unsigned>(plan.parts)}, Tile::kThreads, lies.bytes},
         attention_forward_kernel<T, Tile>, p, plan);
  return true;
}

template <class Element>
void run_forward(const char* op, const Problem& p, const ForwardPlan& plan, Stream stream) {
  using T = native_t<Element>;
  const auto run = [&]<class Tile>(Tile) { return try_forward<T, Tile>(op, p, plan, stream); };
  bool fits = false;
  if constexpr (std::is_same_v<T, double>) {
    fits = run(Tiling<16, 32, 64, 1, 4>{});
  } else {
    if (p.rows_of_unit() > 16) {
      if (p.value_dim <= 64) fits = run(Tiling<64, 64, 64, 2, 4>{});
      if constexpr (is_half<T>) {
        if (!fits && p.value_dim > 128) fits = run(Tiling<64, 64, 256, 2, 4>{});
      }
      fits = fits || run(Tiling<64, 64, 128, 2, 4>{});
    } else if constexpr (is_half<T>) {
      if (p.value_dim > 128) fits = run(Tiling<16, 64, 512, 1, 4>{});
    }
    fits = fits || run(Tiling<16, 64, 128, 1, 4>{});
  }
  if (!fits) throw_too_wide(op, p);
  if (plan.partial_sums != nullptr) {
    const int64_t rows = static_cast<int64_t>(p.batch) * p.heads * p.queries;
    const unsigned threads = p.value_dim > 128 ? 256 : 128;
    launch(op, stream, {grid_size(op, rows), threads}, merge_parts_kernel<T>, p, plan);
  }
}

}  // namespace weft::attention::gpu
