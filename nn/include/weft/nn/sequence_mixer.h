#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "weft/nn/module.h"
#include "weft/tensor/ops/decode_linear.h"

namespace weft::nn {

/// What one call of a mixer costs: floating-point operations (2 per multiply-add), for one
/// sequence.
struct MixerCost {
  double projection_flops = 0;  ///< products with weights
  double core_flops = 0;        ///< scores, weighted sums and whatever chooses what to read
  double total() const { return projection_flops + core_flops; }
};

/// What a mixer remembers of the tokens it has seen, for decoding: keys and values, rings,
/// compressed blocks.
class MixerCache {
 public:
  virtual ~MixerCache() = default;
  /// Tokens seen so far: the position of the next one.
  virtual int64_t length() const = 0;
  /// Tokens that fit in all.
  virtual int64_t capacity() const = 0;
  /// Bytes allocated for this cache.
  virtual int64_t bytes() const = 0;
  /// Forgets everything; the memory stays.
  virtual void reset() = 0;
  /// Counts tokens that SequenceMixer::decode() has appended. Throws NotImplementedError where no
  /// decode() does.
  virtual void advance(int64_t tokens);
};

/// Where a decoding step stands, as a device sees it.
struct DecodePosition {
  Tensor position;       ///< i64 [1]: that of the step's tokens, MixerCache::length()
  bool settled = false;  ///< weights are not being written, and the position and what is cached
                         ///< only by earlier steps, which are done: kernels may read them ahead
};

/// What a mixer may know of the call besides the tokens.
struct MixerContext {
  int64_t position = 0;            ///< absolute position of x's first token, for the rotary phase
  Generator* generator = nullptr;  ///< for dropout; may be null where nothing is drawn
  /// Backward is to compute again what it can, rather than have it kept (see recomputes()).
  bool recompute = false;
};

/// The part of a transformer block that moves information along the sequence: full attention and
/// everything that can stand in its place. Every mixer maps [B, T, E] to [B, T, E] causally;
/// residual and norm lie outside.
///
/// forward() is for training and scoring; make_cache(), prefill() and step() decode. For every
/// split of a sequence into prefills and steps, the outputs equal the rows of forward() up to
/// rounding.
class SequenceMixer : public Module {
 public:
  using Module::Module;

  /// x [B, T, E] -> [B, T, E]; row t depends on rows 0..t alone.
  virtual Variable forward(const Variable& x, const MixerContext& context) = 0;
  /// Whether forward() heeds context.recompute by itself, which can spare it the costly part; of
  /// other mixers all of forward() runs again.
  virtual bool recomputes() const { return false; }

  /// An empty cache for `batch` sequences of at most `capacity` tokens, for activations of type
  /// `dtype`.
  virtual std::unique_ptr<MixerCache> make_cache(int64_t batch, int64_t capacity, DType dtype,
                                                 Device device) const = 0;

  /// Continues the cached sequences by x [B, T, E], T >= 1, at positions cache.length()...; returns
  /// [B, T, E]. Nothing is recorded. Throws ShapeError when the batch differs or the cache is full.
  virtual Variable prefill(const Variable& x, MixerCache& cache) = 0;
  /// One token: x [B, 1, E].
  virtual Variable step(const Variable& x, MixerCache& cache) { return prefill(x, cache); }

  /// Whether decode() serves this cache, which this mixer made.
  virtual bool can_decode(const MixerCache& /*cache*/) const { return false; }
  /// step() of the normed sum of rows [B, E], with the position read from the device: the call can
  /// be captured in a graph once it has been made, and its replays decode one token after another.
  /// The host does not count them: see MixerCache::advance(). Gives [B, E] and the sum.
  virtual DecodeProduct decode(const DecodeRows& rows, MixerCache& cache, const DecodePosition& at);

  /// Forward pass over `tokens` tokens from an empty context; backward costs about twice as much.
  virtual MixerCost forward_cost(int64_t tokens) const = 0;
  /// One decoding step with `context` tokens cached.
  virtual MixerCost step_cost(int64_t context) const = 0;
  /// Bytes that make_cache(1, capacity, dtype, ...) allocates.
  virtual int64_t cache_bytes(int64_t capacity, DType dtype) const = 0;
};

/// Makes the mixer of one layer; lets a model hold any mechanism without knowing it.
using MixerFactory = std::function<std::unique_ptr<SequenceMixer>(int layer)>;

}  // namespace weft::nn
