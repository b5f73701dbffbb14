#pragma once

#include "weft/autograd/functions/join.h"
#include "weft/autograd/functions/linear.h"
#include "weft/autograd/functions/view.h"
#include "weft/nn/linear.h"
#include "weft/nn/sequence_mixer.h"

namespace weft::nn {

/// The simplest causal mixer with a state: row t of the output is W times row t - 1 of the input
/// (zero at t = 0). Lets the decoder be tested without any attention.
class ShiftMixer final : public SequenceMixer {
 public:
  ShiftMixer(int64_t features, Generator& generator)
      : SequenceMixer("ShiftMixer"),
        proj_(register_module<Linear>("proj", features, features, generator,
                                      LinearOptions{.bias = false, .init_std = 0.3})) {}

  Variable forward(const Variable& x, const MixerContext&) override {
    const Tensor zero_row = zeros({x.size(0), 1, x.size(2)}, x.dtype());
    return proj_(autograd::cat({Variable(zero_row), autograd::slice(x, 1, 0, x.size(1) - 1)}, 1));
  }

  std::unique_ptr<MixerCache> make_cache(int64_t batch, int64_t capacity, DType dtype,
                                         Device) const override {
    auto cache = std::make_unique<Cache>();
    cache->last = zeros({batch, 1, proj_.weight.size(0)}, dtype);
    cache->capacity_tokens = capacity;
    return cache;
  }

  Variable prefill(const Variable& x, MixerCache& any_cache) override {
    auto& cache = static_cast<Cache&>(any_cache);
    const Variable y =
        proj_(autograd::cat({Variable(cache.last), autograd::slice(x, 1, 0, x.size(1) - 1)}, 1));
    cache.last = x.data().slice(1, x.size(1) - 1, x.size(1)).clone();
    cache.tokens += x.size(1);
    return y;
  }

  MixerCost forward_cost(int64_t tokens) const override {
    return {2.0 * static_cast<double>(tokens * proj_.weight.numel()), 0};
  }
  MixerCost step_cost(int64_t) const override { return forward_cost(1); }
  int64_t cache_bytes(int64_t, DType dtype) const override {
    return proj_.weight.size(0) * static_cast<int64_t>(size_of(dtype));
  }

 private:
  struct Cache : MixerCache {
    int64_t length() const override { return tokens; }
    int64_t capacity() const override { return capacity_tokens; }
    int64_t bytes() const override {
      return last.numel() * static_cast<int64_t>(size_of(last.dtype()));
    }
    void reset() override {
      tokens = 0;
      last.zero_();
    }
    Tensor last;
    int64_t tokens = 0;
    int64_t capacity_tokens = 0;
  };
  Linear& proj_;
};

}  // namespace weft::nn
