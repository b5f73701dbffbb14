#pragma once

// A decoding step in one kernel, with a block on every multiprocessor.
//
// One warp of a block does nothing but start copies: its block's share of all weights, and of the
// cached keys and values, in the order in which they are needed, into a ring of pieces of shared
// memory. It never waits for results, so that memory is read at full speed while the layers are
// computed one after another. The other warps compute: each block has the residual stream by
// itself, and gives its rows of a product to all others as marked values, which they wait for one
// by one. A product is x times eight rows of w at a time, one a warp; sums are taken in an order
// that depends on shapes alone.
//
// Outputs of steps lie in three buffers by turns. None is overwritten too early: whoever writes the
// output of a step has read something of the step before, whose writer had read all of the output
// before that, to which every block contributed after it had read the one that is overwritten.
#include <limits>

#include "cuda/bulk_copy.cuh"
#include "cuda/launch_check.h"
#include "cuda/marked_value.cuh"
#include "ops/decode_program_cuda.h"
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

/// Rows, or elements, of this block.
struct BlockShare {
  int first, last;
  __device__ __forceinline__ explicit BlockShare(int count)
      : first(static_cast<int>(static_cast<int64_t>(count) * blockIdx.x / gridDim.x)),
        last(static_cast<int>(static_cast<int64_t>(count) * (blockIdx.x + 1) / gridDim.x)) {}
};

/// The pieces of shared memory that copies fill in turn.
struct Ring {
  TransferBarrier* full;   // [slots]
  TransferBarrier* empty;  // [slots]
  unsigned char* memory;
  int slots, slot_bytes;
  int at = 0;           // the next piece
  unsigned parity = 0;  // of the round that it is in

  __device__ __forceinline__ void advance(int count) {
    at += count;
    while (at >= slots) {
      at -= slots;
      parity ^= 1;
    }
  }
  /// The piece `ahead` behind the next one, at most a round, when it is filled.
  __device__ __forceinline__ const unsigned char* wait_for(int ahead) {
    int slot = at + ahead;
    unsigned of = parity;
    if (slot >= slots) {
      slot -= slots;
      of ^= 1;
    }
    wait(full[slot], of);
    return memory + static_cast<int64_t>(slot) * slot_bytes;
  }
  /// This warp has done with the next `count` pieces.
  __device__ __forceinline__ void release(int count) {
    __syncwarp();
    if (threadIdx.x % 32 == 0) {
      for (int i = 0; i < count; ++i) {
        const int slot = at + i;
        arrive(empty[slot < slots ? slot : slot - slots]);
      }
    }
    advance(count);
  }
};

/// The keys that one block meets with some query heads.
struct AttentionUnit {
  int part, b, kv_head, first_head, heads;  // query heads

  __device__ __forceinline__ AttentionUnit(const DecodeAttentionPart& p, int unit, int query_rows) {
    const int group = p.heads / p.kv_heads;
    const int tiles = (group + query_rows - 1) / query_rows;
    part = unit % p.splits;
    unit /= p.splits;
    kv_head = unit % p.kv_heads;
    unit /= p.kv_heads;
    const int tile = unit % tiles;
    b = unit / tiles;
    first_head = kv_head * group + tile * query_rows;
    heads = min(query_rows, group - tile * query_rows);
  }
  static __device__ __forceinline__ int count(const DecodeAttentionPart& p, int batch,
                                              int query_rows) {
    const int group = p.heads / p.kv_heads;
    return batch * p.kv_heads * ((group + query_rows - 1) / query_rows) * p.splits;
  }
};

/// How the cached keys are shared out among parts.
struct CachedKeys {
  int end, skipped;  // keys [0, end) but for one
  int length;        // of a part
  int parts;         // with keys, at least 1

  __device__ __forceinline__ CachedKeys(const DecodeAttentionPart& p, int64_t position) {
    constexpr int kGranule = 32, kLeast = 64;
    // In a ring that is full the oldest row makes room for the new one.
    end = position < p.slots ? static_cast<int>(position) : p.slots;
    skipped = position < p.slots ? -1 : static_cast<int>(position % p.slots);
    length = max((end + p.splits - 1) / p.splits, kLeast);
    length = (length + kGranule - 1) / kGranule * kGranule;
    parts = end == 0 ? 1 : (end + length - 1) / length;
  }
};

/// Fills the ring; one thread.
template <class T, int kQueries>
__device__ __forceinline__ void fetch_all(const DecodeProgramParams& p,
                                          const DecodeProgramStep* steps, Ring ring,
                                          int64_t position) {
  const uint64_t policy = read_once_policy();
  ring.parity = 1;  // pieces are empty to begin with
  const auto begin_slot = [&](unsigned bytes) {
    wait(ring.empty[ring.at], ring.parity);
    arrive_expecting(ring.full[ring.at], bytes);
    return ring.memory + static_cast<int64_t>(ring.at) * ring.slot_bytes;
  };
  const auto copy = [&](unsigned char* to, const void* from, unsigned bytes) {
    copy_bulk(to, from, bytes, ring.full[ring.at], policy);
  };
  const auto copy_rows = [&](unsigned char* to, const void* weight, int64_t stride, int row,
                             int rows, int length) {
    const T* from = static_cast<const T*>(weight) + row * stride;
    const auto row_bytes = static_cast<unsigned>(length * sizeof(T));
    if (stride == length) {
      copy(to, from, rows * row_bytes);
      return;
    }
    for (int i = 0; i < rows; ++i) copy(to + i * row_bytes, from + i * stride, row_bytes);
  };
  for (int s = 0; s < p.step_count; ++s) {
    if (steps[s].is_product) {
      const DecodeProductStep& step = steps[s].product;
      const BlockShare share(step.columns);
      const int weights = step.up != nullptr ? 2 : 1;
      for (int row = share.first; row < share.last; row += step.rows_per_slot) {
        const int rows = min(step.rows_per_slot, share.last - row);
        const auto bytes = static_cast<unsigned>(rows * step.length * sizeof(T));
        unsigned char* const to = begin_slot(weights * bytes);
        copy_rows(to, step.weight, step.weight_stride, row, rows, step.length);
        if (weights == 2) {
          copy_rows(to + bytes, step.up, step.up_stride, row, rows, step.length);
        }
        ring.advance(1);
      }
    } else {
      const DecodeAttentionPart& step = steps[s].attention;
      const CachedKeys keys(step, position);
      const int units = AttentionUnit::count(step, p.batch, kQueries);
      for (int u = static_cast<int>(blockIdx.x); u < units; u += static_cast<int>(gridDim.x)) {
        const AttentionUnit unit(step, u, kQueries);
        const int first = unit.part * keys.length, end = min(first + keys.length, keys.end);
        const int64_t head = static_cast<int64_t>(unit.b) * step.kv_heads + unit.kv_head;
        for (int key = first; key < end; key += step.keys_per_slot) {
          const int count = min(step.keys_per_slot, end - key);
          const auto bytes = static_cast<unsigned>(count * step.dim * sizeof(T));
          const int64_t from = (head * step.slots + key) * step.dim;
          unsigned char* const to = begin_slot(2 * bytes);
          copy(to, static_cast<const T*>(step.keys) + from, bytes);
          copy(to + step.keys_per_slot * step.dim * sizeof(T),
               static_cast<const T*>(step.values) + from, bytes);
          ring.advance(1);
        }
      }
    }
  }
}

/// Where element i of a vector of float lies in shared memory, so that lanes that take eight
/// elements each read different banks.
__device__ __forceinline__ int place_of(int i) {
  const int in_chunk = i % kDecodeChunk;
  return i - in_chunk + in_chunk % 8 / 4 * (kDecodeChunk / 2) + in_chunk / 8 * 4 + in_chunk % 4;
}

/// Calls use(i, x_i, x_{i+1}) for the even i of this thread, of `count` marked values.
template <int kAhead, class Use>
__device__ __forceinline__ void collect(const MarkedValue* from, int count, uint32_t mark,
                                        Use&& use) {
  for (int first = 2 * static_cast<int>(threadIdx.x); first < count;
       first += 2 * kProgramThreads * kAhead) {
    MarkedPair found[kAhead];
#pragma unroll
    for (int u = 0; u < kAhead; ++u) {
      const int i = first + 2 * kProgramThreads * u;
      if (i < count) found[u] = peek_marked_pair(from + i);
    }
#pragma unroll
    for (int u = 0; u < kAhead; ++u) {
      const int i = first + 2 * kProgramThreads * u;
      if (i >= count) continue;
      const float2 pair = await_marked_pair(from + i, found[u], mark);
      use(i, pair.x, pair.y);
    }
  }
}

/// What the computing warps share.
template <class T, int kRows, int kQueries>
struct Computation {
  const DecodeProgramParams& p;
  const DecodeProgramStep* steps;
  Ring ring;
  float* stream;  // [kRows][width]
  float* input;   // [kRows][padded length]; what attention needs lies there too
  int64_t position;
  uint32_t epoch;

  /// Marks of what step s gives, and of what its parts hand to each other.
  __device__ __forceinline__ uint32_t mark_of(int s) const { return epoch + 2 * s + 2; }
  __device__ __forceinline__ uint32_t part_mark_of(int s) const { return epoch + 2 * s + 1; }
  __device__ __forceinline__ MarkedValue* output_of(int s) const { return p.exchange[s % 3]; }

  /// A value as an op of its own would have stored it.
  static __device__ __forceinline__ float rounded(float value) { return widen(narrow<T>(value)); }

  __device__ __forceinline__ void read_tokens() {
    for (int m = 0; m < p.batch; ++m) {
      const int64_t token = p.tokens[m];
      const bool is_known = token >= 0 && token < p.vocabulary;
      const int64_t row = token * p.table_stride;
      // As collect() gives elements to threads, each of which has its own from then on.
      for (int i = 2 * static_cast<int>(threadIdx.x); i < p.width; i += 2 * kProgramThreads) {
#pragma unroll
        for (int k = 0; k < 2; ++k) {
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

  /// Puts x of product s into `input`.
  __device__ __forceinline__ void read_input(const DecodeProductStep& step, int s) {
    const int padded = (step.length + kDecodeChunk - 1) / kDecodeChunk * kDecodeChunk;
    const int thread = static_cast<int>(threadIdx.x);
    const MarkedValue* const last = s > 0 ? output_of(s - 1) : nullptr;
    const uint32_t mark = mark_of(s - 1);
    if (step.gain == nullptr) {
      sync_computing();  // all have done with the input before
      for (int m = 0; m < p.batch; ++m) {
        collect<6>(last + m * p.exchange_stride, step.length, mark, [&](int i, float a, float b) {
          *reinterpret_cast<float2*>(input + m * padded + place_of(i)) = {a, b};
        });
      }
      sync_computing();
      return;
    }
    __shared__ float parts[kRows][kDecodeProgramWarps];
    constexpr int kGains = 4;  // pairs that a thread has loaded before it waits
    float2 gains[kGains];
#pragma unroll
    for (int k = 0; k < kGains; ++k) {
      const int i = 2 * (thread + k * kProgramThreads);
      if (i < step.length) gains[k] = *reinterpret_cast<const float2*>(step.gain + i);
    }
    float squares[kRows] = {};
#pragma unroll
    for (int m = 0; m < kRows; ++m) {
      if (m >= p.batch) break;
      float* const row = stream + m * p.width;
      if (step.adds) {
        collect<2>(last + m * p.exchange_stride, step.length, mark, [&](int i, float a, float b) {
          const float first = rounded(row[i] + a), second = rounded(row[i + 1] + b);
          *reinterpret_cast<float2*>(row + i) = {first, second};
          squares[m] += first * first + second * second;
        });
      } else {
        for (int i = 2 * thread; i < step.length; i += 2 * kProgramThreads)
          squares[m] += row[i] * row[i] + row[i + 1] * row[i + 1];
      }
      const float sum = sum_over<32>(squares[m]);
      if (thread % 32 == 0) parts[m][thread / 32] = sum;
    }
    sync_computing();  // all have done with the input before, too
#pragma unroll
    for (int m = 0; m < kRows; ++m) {
      if (m >= p.batch) break;
      float total = 0;
#pragma unroll
      for (int warp = 0; warp < kDecodeProgramWarps; ++warp) total += parts[m][warp];
      const float scale = 1.0f / sqrtf(total / static_cast<float>(step.length) + step.eps);
      const float* const row = stream + m * p.width;
      const auto store = [&](int i, float2 gain) {
        *reinterpret_cast<float2*>(input + m * padded + place_of(i)) = {
            rounded(row[i] * scale * gain.x), rounded(row[i + 1] * scale * gain.y)};
      };
#pragma unroll
      for (int k = 0; k < kGains; ++k) {
        const int i = 2 * (thread + k * kProgramThreads);
        if (i < step.length) store(i, gains[k]);
      }
      for (int i = 2 * (thread + kGains * kProgramThreads); i < step.length;
           i += 2 * kProgramThreads)
        store(i, *reinterpret_cast<const float2*>(step.gain + i));
    }
    sync_computing();
  }

  /// The block's rows of a product, a warp each, kTogether of a warp at a time.
  template <int kWeights, int kTogether>
  __device__ __forceinline__ void multiply(const DecodeProductStep& step, int s) {
    constexpr int kWidth = 8;
    static_assert(sizeof(T) == 2);
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    const int padded = (step.length + kDecodeChunk - 1) / kDecodeChunk * kDecodeChunk;
    const BlockShare share(step.columns);
    const int count = share.last - share.first;
    for (int pass = 0; pass < count; pass += step.rows_per_pass) {
      const int rows = min(step.rows_per_pass, count - pass);
      const T* weights[kTogether][kWeights] = {};
#pragma unroll
      for (int k = 0; k < kTogether; ++k) {
        const int row = warp + k * kDecodeProgramWarps;
        if (row >= rows) break;
        const int slot = row / step.rows_per_slot, in_slot = row % step.rows_per_slot;
        const auto* const at = reinterpret_cast<const T*>(ring.wait_for(slot));
        const int in_use = min(step.rows_per_slot, rows - slot * step.rows_per_slot);
#pragma unroll
        for (int w = 0; w < kWeights; ++w)
          weights[k][w] = at + (w * in_use + in_slot) * step.length;
      }
      float sums[kTogether][kWeights][kRows] = {};
      for (int first = lane * kWidth; first < step.length; first += kDecodeChunk) {
        float x[kRows][kWidth];
#pragma unroll
        for (int m = 0; m < kRows; ++m) {
          const float* const from = input + m * padded + (first - lane * kWidth) + lane * 4;
          const auto low = *reinterpret_cast<const float4*>(from);
          const auto high = *reinterpret_cast<const float4*>(from + kDecodeChunk / 2);
          x[m][0] = low.x, x[m][1] = low.y, x[m][2] = low.z, x[m][3] = low.w;
          x[m][4] = high.x, x[m][5] = high.y, x[m][6] = high.z, x[m][7] = high.w;
        }
#pragma unroll
        for (int k = 0; k < kTogether; ++k) {
          if (warp + k * kDecodeProgramWarps >= rows) break;
#pragma unroll
          for (int w = 0; w < kWeights; ++w) {
            float values[kWidth];
            widen_pack(load_pack<kWidth>(weights[k][w] + first), values);
#pragma unroll
            for (int m = 0; m < kRows; ++m) {
#pragma unroll
              for (int i = 0; i < kWidth; ++i) sums[k][w][m] += values[i] * x[m][i];
            }
          }
        }
      }
      // Lane k kRows + m gives row k of this warp for sequence m.
      float result = 0;
#pragma unroll
      for (int k = 0; k < kTogether; ++k) {
#pragma unroll
        for (int m = 0; m < kRows; ++m) {
          float totals[kWeights];
#pragma unroll
          for (int w = 0; w < kWeights; ++w) totals[w] = sum_over<32>(sums[k][w][m]);
          if (lane != k * kRows + m) continue;
          result = totals[0];
          if constexpr (kWeights == 2) {
            // Both as a product of its own would have stored them.
            const float gate = rounded(totals[0]), up = rounded(totals[1]);
            result = gate * (1.0f / (1.0f + exponential<T>(-gate))) * up;
          }
        }
      }
      const int m = lane % kRows, row = warp + lane / kRows * kDecodeProgramWarps;
      if (lane / kRows < kTogether && m < p.batch && row < rows) {
        const int column = share.first + pass + row;
        if (step.y != nullptr) {
          static_cast<T*>(step.y)[m * step.y_stride + column] = narrow<T>(result);
        } else {
          store_marked(output_of(s) + m * p.exchange_stride + column, rounded(result), mark_of(s));
        }
      }
      // Copies come in order: when the last has begun, those before it had room, which is what
      // releasing pieces that this warp has not waited for relies on.
      const int pieces = (rows + step.rows_per_slot - 1) / step.rows_per_slot;
      ring.wait_for(pieces - 1);
      ring.release(pieces);
    }
  }

  /// Softmax attention of the cached keys and the new one; kLanes lanes have a key.
  template <int kLanes>
  __device__ __forceinline__ void attend(const DecodeAttentionPart& step, int s);
  __device__ __forceinline__ void merge_parts(const DecodeAttentionPart& step, int s);
  __device__ __forceinline__ void attend_any(const DecodeAttentionPart& step, int s) {
    if (step.dim <= 64) {
      attend<8>(step, s);
    } else {
      attend<16>(step, s);
    }
  }

  __device__ __forceinline__ void run() {
    read_tokens();
    for (int s = 0; s < p.step_count; ++s) {
      if (steps[s].is_product) {
        const DecodeProductStep& step = steps[s].product;
        read_input(step, s);
        if (step.up != nullptr) {
          multiply<2, kDecodeGatedRowsOfWarp>(step, s);
        } else {
          multiply<1, kDecodeRowsOfWarp>(step, s);
        }
      } else {
        attend_any(steps[s].attention, s);
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
  Ring ring{.full = full,
            .empty = full + layout.slots,
            .memory = memory + layout.ring,
            .slots = layout.slots,
            .slot_bytes = layout.slot_bytes};
  const int thread = static_cast<int>(threadIdx.x);
  if (thread == 0) {
    for (int i = 0; i < layout.slots; ++i) {
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
  if (thread >= kProgramThreads) {
    give_up_registers();
    if (thread == kProgramThreads) fetch_all<T, kQueries>(p, steps, ring, position);
    return;
  }
  take_registers();
  Computation<T, kRows, kQueries> computation{
      .p = p,
      .steps = steps,
      .ring = ring,
      .stream = reinterpret_cast<float*>(memory + layout.stream),
      .input = reinterpret_cast<float*>(memory + layout.input),
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
