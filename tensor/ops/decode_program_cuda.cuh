#pragma once

// A decoding step in one kernel, with a block on every multiprocessor.
//
// One warp of a block does nothing but start copies: its block's share of all weights, and of the
// cached keys and values, in the order in which they are needed, into a ring of pieces of shared
// memory. It never waits for results, so that memory is read at full speed while the layers are
// computed one after another. The other warps compute: each block has the residual stream by
// itself, and gives its rows of a product to all others as marked values, which they wait for one
// by one. A piece has eight rows of a weight, of which each warp multiplies every eighth run of 32
// columns on tensor cores, as few_rows_mma_cuda.cuh does. Sums are taken in an order that depends
// on shapes alone.
//
// Outputs of steps lie in three buffers by turns. None is overwritten too early: whoever writes the
// output of a step has read something of the step before, whose writer had read all of the output
// before that, to which every block contributed after it had read the one that is overwritten.
#include <limits>

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
  float* stream;  // [kRows][width]
  T* input;       // [kRows][input_stride]; what attention needs lies there too
  float* parts;   // decode_parts_floats(kRows)
  int64_t position;
  uint32_t epoch;
  int turn = 0;  // the set of parts that is free

  /// Marks of what step s gives, and of what its parts hand to each other.
  __device__ __forceinline__ uint32_t mark_of(int s) const { return epoch + 2 * s + 2; }
  __device__ __forceinline__ uint32_t part_mark_of(int s) const { return epoch + 2 * s + 1; }
  __device__ __forceinline__ Marked* output_of(int s) const { return p.exchange[s % 3]; }

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
    const Marked* const from = output_of(s);
    const uint32_t mark = mark_of(s);
    for (int first = 0; own(first) < length; first += kAhead) {
      MarkedTwo found[kRows][kAhead];
#pragma unroll
      for (int m = 0; m < kRows; ++m) {
#pragma unroll
        for (int u = 0; u < kAhead; ++u) {
          if (m < p.batch && own(first + u) < length)
            found[m][u] = peek_two_marked(from + m * p.exchange_stride + own(first + u) / 2);
        }
      }
#pragma unroll
      for (int m = 0; m < kRows; ++m) {
#pragma unroll
        for (int u = 0; u < kAhead; ++u) {
          if (m >= p.batch || own(first + u) >= length) continue;
          const int i = own(first + u);
          use(m, i, await_two_marked(from + m * p.exchange_stride + i / 2, found[m][u], mark));
        }
      }
    }
  }

  /// Puts x of product s into `input`.
  __device__ __forceinline__ void read_input(const DecodeProductStep& step, int s) {
    const int stride = p.layout.input_stride;
    if (step.gain == nullptr) {
      sync_computing();  // all have done with the input before
      collect<kRows == 1 ? 4 : 1>(s - 1, step.length, [&](int m, int i, uint2 bits) {
        *reinterpret_cast<uint2*>(input + m * stride + i) = bits;
      });
      sync_computing();
      return;
    }
    __shared__ float squares_of[kRows][kDecodeProgramWarps];
    const int thread = static_cast<int>(threadIdx.x);
    constexpr int kGains = 2;  // runs that a thread has loaded before it waits
    float4 gains[kGains];
#pragma unroll
    for (int u = 0; u < kGains; ++u) {
      if (own(u) < step.length) gains[u] = *reinterpret_cast<const float4*>(step.gain + own(u));
    }
    float squares[kRows] = {};
    const auto add_squares = [&](int m, const float4& x) {
      squares[m] += x.x * x.x + x.y * x.y + x.z * x.z + x.w * x.w;
    };
    if (step.adds) {
      collect<kRows == 1 ? 2 : 1>(s - 1, step.length, [&](int m, int i, uint2 bits) {
        auto& x = *reinterpret_cast<float4*>(stream + m * p.width + i);
        const float2 low = unpack_two<T>(bits.x), high = unpack_two<T>(bits.y);
        x = {rounded(x.x + low.x), rounded(x.y + low.y), rounded(x.z + high.x),
             rounded(x.w + high.y)};
        add_squares(m, x);
      });
    } else {
#pragma unroll
      for (int m = 0; m < kRows; ++m) {
        if (m >= p.batch) break;
        for (int u = 0; own(u) < step.length; ++u)
          add_squares(m, *reinterpret_cast<const float4*>(stream + m * p.width + own(u)));
      }
    }
#pragma unroll
    for (int m = 0; m < kRows; ++m) {
      const float sum = sum_over<32>(squares[m]);
      if (thread % 32 == 0) squares_of[m][thread / 32] = sum;
    }
    sync_computing();  // all have done with the input before, too
#pragma unroll
    for (int m = 0; m < kRows; ++m) {
      if (m >= p.batch) break;
      float total = 0;
#pragma unroll
      for (int warp = 0; warp < kDecodeProgramWarps; ++warp) total += squares_of[m][warp];
      const float scale = 1.0f / sqrtf(total / static_cast<float>(step.length) + step.eps);
      const auto store = [&](int i, const float4& gain) {
        const auto x = *reinterpret_cast<const float4*>(stream + m * p.width + i);
        *reinterpret_cast<uint2*>(input + m * stride + i) = {
            pack_two<T>(x.x * scale * gain.x, x.y * scale * gain.y),
            pack_two<T>(x.z * scale * gain.z, x.w * scale * gain.w)};
      };
#pragma unroll
      for (int u = 0; u < kGains; ++u) {
        if (own(u) < step.length) store(own(u), gains[u]);
      }
      for (int u = kGains; own(u) < step.length; ++u)
        store(own(u), *reinterpret_cast<const float4*>(step.gain + own(u)));
    }
    sync_computing();
  }

  /// The block's rows of a product, kMostTiles times eight at a time.
  template <int kWeights, int kMostTiles>
  __device__ __forceinline__ void multiply(const DecodeProductStep& step, int s) {
    const BlockShare share = shares[s];
    int row = share.first;
    constexpr int kMostRows = kMostTiles * kDecodeTileRows;
    for (; share.last - row > (kMostTiles - 1) * kDecodeTileRows; row += kMostRows)
      multiply_tiles<kWeights, kMostTiles>(step, s, row, min(row + kMostRows, share.last));
    const int left = (share.last - row + kDecodeTileRows - 1) / kDecodeTileRows;
    if (left == 1) multiply_tiles<kWeights, 1>(step, s, row, share.last);
    if (left == 2) multiply_tiles<kWeights, 2>(step, s, row, share.last);
    if constexpr (kMostTiles > 3) {
      if (left == 3) multiply_tiles<kWeights, 3>(step, s, row, share.last);
    }
  }

  /// Rows [first_row, last_row) of a product, which are kTiles times eight or a few less.
  template <int kWeights, int kTiles>
  __device__ __forceinline__ void multiply_tiles(const DecodeProductStep& step, int s,
                                                 int first_row, int last_row) {
    static_assert(sizeof(T) == 2);
    // Instructions of the tensor cores take long, but many can be on their way.
    constexpr int kChains = kTiles * kWeights == 1 ? 4 : kTiles * kWeights == 2 ? 2 : 1;
    constexpr int kTerms = 32;  // columns of a warp's step
    constexpr int kSteps = kDecodeTileColumns / kTerms / kDecodeProgramWarps;
    const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
    const int row = lane / 4;  // of x, and of the piece's rows of w
    float chains[kChains][kTiles][kWeights][4] = {};
    for (int column = 0; column < step.length; column += kDecodeTileColumns) {
      const int columns = min(kDecodeTileColumns, step.length - column);
      const auto stride = static_cast<int>(decode_row_stride(columns * sizeof(T)));
      const int first = warp * kTerms + lane % 4 * 8;  // of this lane in step 0
      uint4 x[kSteps] = {}, weights[kTiles][kWeights][kSteps] = {};
#pragma unroll
      for (int i = 0; i < kSteps; ++i) {
        const int at = first + i * kDecodeProgramWarps * kTerms;
        if (row < kRows && at < columns) {
          x[i] = *reinterpret_cast<const uint4*>(input + row * p.layout.input_stride + column + at);
        }
      }
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
#pragma unroll
        for (int w = 0; w < kWeights; ++w) {
          const unsigned char* const piece =
              ring.wait_for(t * kWeights + w) + row * stride + first * sizeof(T);
#pragma unroll
          for (int i = 0; i < kSteps; ++i) {
            const int offset = i * kDecodeProgramWarps * kTerms;
            if (first + offset < columns)
              weights[t][w][i] = *reinterpret_cast<const uint4*>(piece + offset * sizeof(T));
          }
        }
      }
      ring.release(kTiles * kWeights);
      const auto multiply_all = [&](float(&to)[kTiles][kWeights][4], int i, bool high) {
#pragma unroll
        for (int t = 0; t < kTiles; ++t) {
#pragma unroll
          for (int w = 0; w < kWeights; ++w) {
            const uint4& b = weights[t][w][i];
            if (high) {
              multiply_add<T>(to[t][w], x[i].z, x[i].w, b.z, b.w);
            } else {
              multiply_add<T>(to[t][w], x[i].x, x[i].y, b.x, b.y);
            }
          }
        }
      };
#pragma unroll
      for (int i = 0; i < kSteps; ++i) {
        multiply_all(chains[2 * i % kChains], i, false);
        multiply_all(chains[(2 * i + 1) % kChains], i, true);
      }
    }
    // Parts of the turn before may be written again once all threads have come to the barrier.
    constexpr int kPart = kRows * kDecodeTileRows, kWarpParts = kTiles * kWeights * kPart;
    float* const set = parts + turn * (decode_parts_floats(kRows) / 2);
    turn ^= 1;
    if (row < kRows) {
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
#pragma unroll
        for (int w = 0; w < kWeights; ++w) {
          float2 sum{0, 0};
#pragma unroll
          for (int chain = 0; chain < kChains; ++chain) {
            sum.x += chains[chain][t][w][0];
            sum.y += chains[chain][t][w][1];
          }
          *reinterpret_cast<float2*>(set + warp * kWarpParts + (t * kWeights + w) * kPart +
                                     row * kDecodeTileRows + lane % 4 * 2) = sum;
        }
      }
    }
    sync_computing();
    // A thread has two columns of a row.
    constexpr int kPairs = kDecodeTileRows / 2, kMostTiles = 4;
    static_assert(kTiles <= kMostTiles && kPairs * kMostTiles * kRows <= kProgramThreads);
    const int pair = thread % kPairs, t = thread / kPairs % kMostTiles;
    const int m = thread / (kPairs * kMostTiles);
    const int at = first_row + t * kDecodeTileRows + 2 * pair;
    if (t >= kTiles || m >= p.batch || at >= last_row) return;
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
      T* const to = static_cast<T*>(step.y) + m * step.y_stride + at;
      to[0] = narrow<T>(result.x);
      if (at + 1 < last_row) to[1] = narrow<T>(result.y);
    } else {
      store_marked(output_of(s) + m * p.exchange_stride + at / 2, pack_two<T>(result.x, result.y),
                   mark_of(s));
    }
  }

  /// Softmax attention of the cached keys and the new one; kLanes lanes have a key.
  template <int kLanes>
  __device__ __forceinline__ void attend(const DecodeAttentionPart& step, int s);
  __device__ __forceinline__ void merge_parts(const DecodeAttentionPart& step,
                                              const CachedKeys& keys, int s);

  __device__ __forceinline__ void run() {
    read_tokens();
    for (int s = 0; s < p.step_count; ++s) {
      if (steps[s].is_product) {
        const DecodeProductStep& step = steps[s].product;
        read_input(step, s);
        if (step.up != nullptr) {
          multiply<2, kDecodeGatedTiles>(step, s);
        } else {
          multiply<1, kDecodeTiles>(step, s);
        }
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
      .input = reinterpret_cast<T*>(memory + layout.input),
      .parts = reinterpret_cast<float*>(memory + layout.parts),
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
