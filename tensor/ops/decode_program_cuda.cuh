#pragma once

// A decoding step in one kernel, with a block on every multiprocessor.
//
// One warp of a block does nothing but start copies: its block's share of all weights, and of the
// cached keys and values, in the order in which they are needed, into a ring of pieces of shared
// memory. It never waits for results, so that memory is read at full speed while the layers are
// computed one after another. The other warps compute: each block has the residual stream by
// itself, and gives its rows of a product to all others as marked values, which they wait for one
// by one. A piece has eight rows of a weight, of which each warp multiplies every eighth run of 32
// columns on tensor cores. Sums are taken in an order that depends on shapes alone.
//
// What counts is the way of a vector from step to step, since the reading goes on beside it: while
// a block waits for its input it has the first weights in registers already, the gain of a norm in
// shared memory, and it has few barriers to come to afterwards. A step's output is written several
// times, each copy for another part of the blocks to read.
//
// Outputs of steps lie in three buffers by turns. None is overwritten too early: whoever writes the
// output of a step has read something of the step before, whose writer had read all of the output
// before that, to which every block contributed after it had read the one that is overwritten.
#include <limits>
#include <type_traits>

#include "cuda/async_copy.cuh"
#include "cuda/few_rows_mma.cuh"
#include "cuda/launch_check.h"
#include "cuda/marked_value.cuh"
#include "ops/decode_program_fetch_cuda.cuh"
#include "ops/rows_cuda.cuh"

namespace weft::cuda {

inline constexpr int kProgramThreads = 32 * kDecodeProgramWarps;  // that compute
/// Registers are shared out among groups of four warps, so that the one which copies has such a
/// group.
inline constexpr int kProgramBlock = kProgramThreads + 128;

/// By all threads of the group that copies, and by the others.
__device__ __forceinline__ void give_up_registers() {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
#endif
}
__device__ __forceinline__ void take_registers() {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
#endif
}

/// The thread's number. What is computed from it stays where it is used, instead of being kept in
/// registers all through the program.
__device__ __forceinline__ int this_thread() {
  auto thread = static_cast<int>(threadIdx.x);
  asm volatile("" : "+r"(thread));
  return thread;
}

/// Of the computing warps alone.
__device__ __forceinline__ void sync_computing() {
  asm volatile("bar.sync 1, %0;" ::"n"(kProgramThreads) : "memory");
}

/// Two elements in four bytes, and back.
template <class T>
__device__ __forceinline__ uint32_t pack_two(float first, float second) {
  return static_cast<uint32_t>(narrow<T>(first).bits) |
         static_cast<uint32_t>(narrow<T>(second).bits) << 16;
}
template <class T>
__device__ __forceinline__ float2 unpack_two(uint32_t bits) {
  T first, second;
  first.bits = static_cast<uint16_t>(bits);
  second.bits = static_cast<uint16_t>(bits >> 16);
  return {widen(first), widen(second)};
}

/// What the computing warps share.
template <class T, int kRows, int kQueries>
struct Computation {
  const DecodeProgramParams& p;
  const DecodeProgramStep* steps;
  const BlockShare* shares;  // of steps
  Ring ring;
  float* stream;     // [kRows][width]
  float* gains;      // [width], of the next norm
  T* input;          // [kRows][input_stride], every eight elements in the order of put_input()
  float* attention;  // decode_attention_floats()
  float* parts;      // decode_parts_floats(kRows)
  float* squares;    // [kRows][kDecodeProgramWarps], sums over what each warp has of the stream
  int64_t position;
  uint32_t epoch;
  int turn = 0;  // the set of parts that is free

  // Columns that a warp takes at a time, and how often it does in a piece.
  static constexpr int kTerms = 32;
  static constexpr int kSteps = kDecodeTileColumns / kTerms / kDecodeProgramWarps;
  /// A lane's part of the pieces that are multiplied next.
  using Batch = uint4[kDecodeBatch][kSteps];

  /// bf16 has the range of f32: x can be multiplied by its gain before the root mean square is
  /// known, and the sums be divided by that, which takes one barrier less.
  static constexpr bool kNormalizesSums = std::is_same_v<T, bf16>;

  /// Marks of what step s gives, and of what its parts hand to each other.
  __device__ __forceinline__ uint32_t mark_of(int s) const { return epoch + 2 * s + 2; }
  __device__ __forceinline__ uint32_t part_mark_of(int s) const { return epoch + 2 * s + 1; }
  __device__ __forceinline__ Marked* output_of(int s, int copy) const {
    return p.exchange[s % 3] + copy * p.exchange_copy;
  }
  /// The copy that this block reads.
  __device__ __forceinline__ const Marked* output_of(int s) const {
    return output_of(s, static_cast<int>(blockIdx.x) % kDecodeCopies);
  }
  __device__ __forceinline__ bool has_row(int m) const { return kRows == 1 || m < p.batch; }

  /// A value as an op of its own would have stored it.
  static __device__ __forceinline__ float rounded(float value) { return widen(narrow<T>(value)); }

  /// Elements [first, first + 4) of rows are a thread's, with these first ones.
  static constexpr int kOwn = 4;
  static __device__ __forceinline__ int own(int u) {
    return kOwn * (static_cast<int>(threadIdx.x) + u * kProgramThreads);
  }

  __device__ __forceinline__ void read_tokens() {
    for (int m = 0; m < p.batch; ++m) {
      const int64_t token = p.tokens[m];
      const bool is_known = token >= 0 && token < p.vocabulary;
      const int64_t row = token * p.table_stride;
      for (int u = 0; own(u) < p.width; ++u) {
        const int i = own(u);
#pragma unroll
        for (int k = 0; k < kOwn; ++k) {
          float value = 0;
          if (is_known && p.table_is_f32) {
            value = rounded(static_cast<const float*>(p.table)[row + i + k]);
          } else if (is_known) {
            value = widen(static_cast<const T*>(p.table)[row + i + k]);
          }
          stream[m * p.width + i + k] = value;
        }
      }
    }
  }

  /// Calls use(m, i, bits) for what this thread has of the output of step s, kAhead own runs of all
  /// rows being waited for together.
  template <int kAhead, class Use>
  __device__ __forceinline__ void collect(int s, int length, Use&& use) {
    constexpr int kPlaces = kRows * kAhead;
    const Marked* const output = output_of(s);
    const uint32_t mark = mark_of(s);
    for (int first = 0; own(first) < length; first += kAhead) {
      const Marked* from[kPlaces];
      bool wanted[kPlaces];
      MarkedTwo found[kPlaces];
#pragma unroll
      for (int i = 0; i < kPlaces; ++i) {
        const int m = i / kAhead, element = own(first + i % kAhead);
        from[i] = output + m * p.exchange_stride + element / 2;
        wanted[i] = has_row(m) && element < length;
      }
      await_marked(from, wanted, found, mark);
#pragma unroll
      for (int i = 0; i < kPlaces; ++i) {
        if (wanted[i]) use(i / kAhead, own(first + i % kAhead), bits_of(found[i]));
      }
    }
  }

  /// Starts to copy this thread's part of a gain, which it reads by itself.
  __device__ __forceinline__ void fetch_gains(const float* gain) {
    if (gain == nullptr) return;
    for (int u = 0; own(u) < p.width; ++u) copy_pack_async(gains + own(u), gain + own(u));
    end_copy_group();
  }

  /// Elements [i, i + 4) of row m of x. Of eight elements the pairs lie in the order 0, 2, 1, 3, in
  /// which multiply_add_weights() takes them.
  __device__ __forceinline__ void put_input(int m, int i, uint2 bits) {
    auto* const eight = reinterpret_cast<uint32_t*>(input + m * p.layout.input_stride + i / 8 * 8);
    const int half = i / kOwn % 2;
    eight[half] = bits.x;
    eight[2 + half] = bits.y;
  }
  __device__ __forceinline__ void put_input(int m, int i, const float4& x) {
    put_input(m, i, {pack_two<T>(x.x, x.y), pack_two<T>(x.z, x.w)});
  }

  /// What the sums of row m, or its elements, are to be multiplied by.
  __device__ __forceinline__ float norm_factor(const DecodeProductStep& step, int m) const {
    float total = 0;
#pragma unroll
    for (int warp = 0; warp < kDecodeProgramWarps; ++warp)
      total += squares[m * kDecodeProgramWarps + warp];
    return rsqrtf(total * step.inverse_length + step.eps);
  }

  /// Puts x of product s into `input`; where the step has a norm, x times the gain.
  __device__ __forceinline__ void read_input(const DecodeProductStep& step, int s) {
    if (step.gain == nullptr) {
      collect<kRows == 1 ? 4 : 1>(s - 1, step.length,
                                  [&](int m, int i, uint2 bits) { put_input(m, i, bits); });
      sync_computing();
      return;
    }
    wait_for_copy_groups<0>();
    float sums[kRows] = {};
    const auto take = [&](int m, int i, const float4& x) {
      sums[m] += x.x * x.x + x.y * x.y + x.z * x.z + x.w * x.w;
      if constexpr (kNormalizesSums) {
        const auto gain = *reinterpret_cast<const float4*>(gains + i);
        put_input(m, i, float4{x.x * gain.x, x.y * gain.y, x.z * gain.z, x.w * gain.w});
      }
    };
    if (step.adds) {
      collect<kRows == 1 ? 2 : 1>(s - 1, step.length, [&](int m, int i, uint2 bits) {
        auto& x = *reinterpret_cast<float4*>(stream + m * p.width + i);
        const float2 low = unpack_two<T>(bits.x), high = unpack_two<T>(bits.y);
        x = {rounded(x.x + low.x), rounded(x.y + low.y), rounded(x.z + high.x),
             rounded(x.w + high.y)};
        take(m, i, x);
      });
    } else {
      for (int m = 0; m < p.batch; ++m) {
        for (int u = 0; own(u) < step.length; ++u)
          take(m, own(u), *reinterpret_cast<const float4*>(stream + m * p.width + own(u)));
      }
    }
    const int thread = static_cast<int>(threadIdx.x);
#pragma unroll
    for (int m = 0; m < kRows; ++m) {
      const float sum = sum_over<32>(sums[m]);
      if (thread % 32 == 0) squares[m * kDecodeProgramWarps + thread / 32] = sum;
    }
    if constexpr (!kNormalizesSums) {
      sync_computing();
      for (int m = 0; m < p.batch; ++m) {
        const float factor = norm_factor(step, m);
        for (int u = 0; own(u) < step.length; ++u) {
          const auto x = *reinterpret_cast<const float4*>(stream + m * p.width + own(u));
          const auto gain = *reinterpret_cast<const float4*>(gains + own(u));
          put_input(m, own(u),
                    float4{x.x * factor * gain.x, x.y * factor * gain.y, x.z * factor * gain.z,
                           x.w * factor * gain.w});
        }
      }
    }
    fetch_gains(step.next_gain);
    sync_computing();
  }

  static __device__ __forceinline__ int tiles_of_pass(const DecodeProductStep& step, int row,
                                                      int end) {
    const int most = step.up != nullptr ? kDecodeGatedTiles : kDecodeTiles;
    return min((end - row + kDecodeTileRows - 1) / kDecodeTileRows, most);
  }

  /// Takes the next pieces of a pass out of the ring: of as many columns as fit, from `column` on,
  /// each of which has as many pieces as its pass has tiles, of both weights.
  __device__ __forceinline__ void load_batch(Batch& batch, const DecodeProductStep& step, int tiles,
                                             int column) {
    const int each = step.up != nullptr ? 2 * tiles : tiles;
    const int left = (step.length - column + kDecodeTileColumns - 1) / kDecodeTileColumns;
    const int pieces = min(kDecodeBatch / each, left) * each;
    const int thread = this_thread(), warp = thread / 32, lane = thread % 32;
    const int first = warp * kTerms + lane % 4 * 8;  // column of this lane in step 0
    int columns = min(kDecodeTileColumns, step.length - column);
    int of_column = 0;
#pragma unroll
    for (int i = 0; i < kDecodeBatch; ++i) {
      if (i >= pieces) break;
      const unsigned char* const row = ring.wait_for(i) + lane / 4 * kDecodeRowStride;
      const auto load = [&](int at) {
        return *reinterpret_cast<const uint4*>(row + at * static_cast<int>(sizeof(T)));
      };
#pragma unroll
      for (int k = 0; k < kSteps; ++k) {
        const int at = first + k * kDecodeProgramWarps * kTerms;
        // Behind the end x is zero, and anything that is a number will do.
        batch[i][k] = load(columns == kDecodeTileColumns || at < columns ? at : 0);
      }
      if (++of_column == each) {
        of_column = 0;
        column += kDecodeTileColumns;
        columns = min(kDecodeTileColumns, step.length - column);
      }
    }
    ring.release(pieces);
  }

  /// The block's rows of a product, of whose first pass load_batch() has been called.
  __device__ __forceinline__ void multiply(Batch& batch, const DecodeProductStep& step, int s,
                                           const BlockShare& share) {
    for (int row = share.first;;) {
      const int tiles = tiles_of_pass(step, row, share.last);
      const int end = min(row + tiles * kDecodeTileRows, share.last);
      if (step.up != nullptr) {
        switch (tiles) {
          case 1:
            multiply_pass<1, 2>(batch, step, s, row, end);
            break;
          case 2:
            multiply_pass<2, 2>(batch, step, s, row, end);
            break;
          default:
            multiply_pass<3, 2>(batch, step, s, row, end);
            break;
        }
      } else {
        switch (tiles) {
          case 1:
            multiply_pass<1, 1>(batch, step, s, row, end);
            break;
          case 2:
            multiply_pass<2, 1>(batch, step, s, row, end);
            break;
          case 3:
            multiply_pass<3, 1>(batch, step, s, row, end);
            break;
          case 4:
            multiply_pass<4, 1>(batch, step, s, row, end);
            break;
          case 5:
            multiply_pass<5, 1>(batch, step, s, row, end);
            break;
          default:
            multiply_pass<6, 1>(batch, step, s, row, end);
            break;
        }
      }
      row = end;
      if (row >= share.last) return;
      load_batch(batch, step, tiles_of_pass(step, row, share.last), 0);
    }
  }

  /// Rows [first_row, last_row) of a product, which are kTiles times eight or a few less.
  template <int kTiles, int kWeights>
  __device__ __forceinline__ void multiply_pass(Batch& batch, const DecodeProductStep& step, int s,
                                                int first_row, int last_row) {
    static_assert(sizeof(T) == 2);
    constexpr int kEach = kTiles * kWeights, kColumns = kDecodeBatch / kEach;
    static_assert(kTiles <= (kWeights == 2 ? kDecodeGatedTiles : kDecodeTiles) && kColumns > 0);
    // Instructions of the tensor cores take long, but many can be on their way.
    constexpr int kChains = kEach == 1 ? 4 : kEach == 2 ? 2 : 1;
    const int thread = this_thread(), warp = thread / 32, lane = thread % 32;
    const int of_lane = warp * kTerms + lane % 4 * 8;
    const T* const x_of_lane =
        input + min(lane / 8, kRows - 1) * p.layout.input_stride + of_lane + lane / 4 % 2 * 4;
    float sums[kChains][kEach][4] = {};
    for (int column = 0;;) {
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
        const int first = column + c * kDecodeTileColumns;
        if (first >= step.length) break;
        uint2 x[kSteps];
#pragma unroll
        for (int k = 0; k < kSteps; ++k) {
          const int at = first + k * kDecodeProgramWarps * kTerms;
          x[k] = at + of_lane < step.length ? *reinterpret_cast<const uint2*>(x_of_lane + at)
                                            : uint2{0, 0};
        }
#pragma unroll
        for (int k = 0; k < kSteps; ++k) {
#pragma unroll
          for (int e = 0; e < kEach; ++e)
            multiply_add_weights<T>(sums[k % kChains][e], batch[c * kEach + e][k], x[k]);
        }
      }
      column += kColumns * kDecodeTileColumns;
      if (column >= step.length) break;
      load_batch(batch, step, kTiles, column);
    }
    // Parts of the turn before may be written again once all threads have come to the barrier.
    constexpr int kPart = kRows * kDecodeTileRows, kWarpParts = kEach * kPart;
    float* const set = parts + turn * (decode_parts_floats(kRows) / 2);
    turn ^= 1;
    if (lane % 4 < kRows) {
#pragma unroll
      for (int e = 0; e < kEach; ++e) {
        float sum = 0;
#pragma unroll
        for (int chain = 0; chain < kChains; ++chain) sum += sums[chain][e][0] + sums[chain][e][3];
        set[warp * kWarpParts + e * kPart + lane % 4 * kDecodeTileRows + lane / 4] = sum;
      }
    }
    sync_computing();
    // A thread has two columns of a row, and some have the same, for the copies of the output.
    constexpr int kPairs = kDecodeTileRows / 2, kMostTiles = 8;
    static_assert(kTiles <= kMostTiles);
    constexpr int kWriters = kProgramThreads / (kPairs * kMostTiles * kRows);
    const int pair = thread % kPairs, t = thread / kPairs % kMostTiles;
    const int m = thread / (kPairs * kMostTiles) % kRows;
    const int writer = thread / (kPairs * kMostTiles * kRows);
    const int at = first_row + t * kDecodeTileRows + 2 * pair;
    if (t >= kTiles || !has_row(m) || at >= last_row || writer >= kDecodeCopies) return;
    float2 totals[kWeights] = {};
#pragma unroll
    for (int w = 0; w < kWeights; ++w) {
#pragma unroll
      for (int of = 0; of < kDecodeProgramWarps; ++of) {
        const auto part = *reinterpret_cast<const float2*>(
            set + of * kWarpParts + (t * kWeights + w) * kPart + m * kDecodeTileRows + 2 * pair);
        totals[w].x += part.x;
        totals[w].y += part.y;
      }
    }
    if (kNormalizesSums && step.gain != nullptr) {
      const float factor = norm_factor(step, m);
#pragma unroll
      for (int w = 0; w < kWeights; ++w) totals[w] = {totals[w].x * factor, totals[w].y * factor};
    }
    float2 result = totals[0];
    if constexpr (kWeights == 2) {
      // Both as a product of its own would have stored them.
      const auto gated = [](float gate, float up) {
        const float g = rounded(gate);
        return g * (1.0f / (1.0f + exponential<T>(-g))) * rounded(up);
      };
      result = {gated(totals[0].x, totals[1].x), gated(totals[0].y, totals[1].y)};
    }
    if (step.y != nullptr) {
      if (writer > 0) return;
      T* const to = static_cast<T*>(step.y) + m * step.y_stride + at;
      to[0] = narrow<T>(result.x);
      if (at + 1 < last_row) to[1] = narrow<T>(result.y);
    } else {
      for (int copy = writer; copy < kDecodeCopies; copy += kWriters) {
        store_marked(output_of(s, copy) + m * p.exchange_stride + at / 2,
                     pack_two<T>(result.x, result.y), mark_of(s));
      }
    }
  }

  /// Softmax attention of the cached keys and the new one; kLanes lanes have a key.
  template <int kLanes>
  __device__ __forceinline__ void attend(const DecodeAttentionPart& step, int s);
  __device__ __forceinline__ void merge_parts(const DecodeAttentionPart& step,
                                              const CachedKeys& keys, int s);

  __device__ __forceinline__ void run() {
    fetch_gains(p.first_gain);
    read_tokens();
    for (int s = 0; s < p.step_count; ++s) {
      if (steps[s].is_product) {
        const DecodeProductStep step = steps[s].product;
        const BlockShare share = shares[s];
        Batch batch;
        load_batch(batch, step, tiles_of_pass(step, share.first, share.last), 0);
        read_input(step, s);
        multiply(batch, step, s, share);
      } else if (steps[s].attention.dim <= 64) {
        attend<8>(steps[s].attention, s);
      } else {
        attend<16>(steps[s].attention, s);
      }
    }
  }
};

template <class T, int kRows, int kQueries>
__global__ void __launch_bounds__(kProgramBlock, 1)
    decode_program_kernel(const __grid_constant__ DecodeProgramParams p) {
  extern __shared__ __align__(128) unsigned char memory[];
  __shared__ float squares[kRows * kDecodeProgramWarps];
  const DecodeProgramLayout& layout = p.layout;
  auto* const full = reinterpret_cast<TransferBarrier*>(memory);
  auto* const steps = reinterpret_cast<DecodeProgramStep*>(memory + layout.steps);
  auto* const shares = reinterpret_cast<BlockShare*>(memory + layout.shares);
  const Ring ring{.full = full,
                  .empty = full + layout.pieces,
                  .memory = memory + layout.ring,
                  .pieces = layout.pieces,
                  .piece_bytes = layout.piece_bytes};
  const int thread = static_cast<int>(threadIdx.x);
  if (thread == 0) {
    for (int i = 0; i < layout.pieces; ++i) {
      init_barrier(ring.full[i], 1);
      init_barrier(ring.empty[i], kDecodeProgramWarps);
    }
    publish_barriers();
  }
  static_assert(sizeof(DecodeProgramStep) % sizeof(uint64_t) == 0);
  const int words = p.step_count * static_cast<int>(sizeof(DecodeProgramStep) / sizeof(uint64_t));
  for (int i = thread; i < words; i += kProgramBlock)
    reinterpret_cast<uint64_t*>(steps)[i] = reinterpret_cast<const uint64_t*>(p.steps)[i];
  const int64_t position = p.position != nullptr ? *p.position : 0;
  const uint32_t epoch = *p.epoch;
  __syncthreads();
  for (int s = thread; s < p.step_count; s += kProgramBlock) {
    const DecodeProgramStep& step = steps[s];
    shares[s] =
        BlockShare::of(step.is_product ? step.product.columns
                                       : p.batch * step.attention.heads * step.attention.dim);
  }
  __syncthreads();
  if (thread >= kProgramThreads) {
    give_up_registers();
    if (thread < kProgramThreads + 32) fetch_all<T, kQueries>(p, steps, shares, ring, position);
    return;
  }
  take_registers();
  Computation<T, kRows, kQueries> computation{
      .p = p,
      .steps = steps,
      .shares = shares,
      .ring = ring,
      .stream = reinterpret_cast<float*>(memory + layout.stream),
      .gains = reinterpret_cast<float*>(memory + layout.gains),
      .input = reinterpret_cast<T*>(memory + layout.input),
      .attention = reinterpret_cast<float*>(memory + layout.attention),
      .parts = reinterpret_cast<float*>(memory + layout.parts),
      .squares = squares,
      .position = position,
      .epoch = epoch};
  computation.run();
  // This block has what all others gave in the last step but one, so that they have read the epoch.
  if (blockIdx.x == 0 && thread == 0) *p.epoch = epoch + 2 * p.step_count;
}

}  // namespace weft::cuda

#include "ops/decode_program_attention_cuda.cuh"

namespace weft {

/// Starts all blocks together, since they wait for each other.
template <class T, int kRows, int kQueries>
void launch_decode_program(const DecodeProgramParams& params, unsigned blocks, Stream stream) {
  const cuda::DeviceGuard guard(stream.device().index);
  const auto kernel = cuda::decode_program_kernel<T, kRows, kQueries>;
  const auto bytes = static_cast<size_t>(params.layout.total);
  WEFT_CUDA_CHECK(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                       cudaFuncAttributeMaxDynamicSharedMemorySize,
                                       static_cast<int>(bytes)));
  const cuda::LaunchShape shape{blocks, cuda::kProgramBlock, bytes};
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeCooperative;
  attribute.val.cooperative = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = bytes;
  config.stream = cuda::native(stream);
  config.attrs = &attribute;
  config.numAttrs = 1;
  // check_launch() finds what this returns as the runtime's last error.
  static_cast<void>(cudaLaunchKernelEx(&config, kernel, params));
  cuda::detail::check_launch("decode_program", stream, shape);
}

template <class T>
void start_decode_program(const DecodeProgramParams& params, unsigned blocks, Stream stream) {
  const auto launch = [&]<int kRows>() {
    if (params.query_rows == 1) {
      launch_decode_program<T, kRows, 1>(params, blocks, stream);
    } else {
      launch_decode_program<T, kRows, kDecodeQueryRows>(params, blocks, stream);
    }
  };
  if (params.batch == 1) {
    launch.template operator()<1>();
  } else {
    launch.template operator()<kMostDecodeRows>();
  }
}

}  // namespace weft
