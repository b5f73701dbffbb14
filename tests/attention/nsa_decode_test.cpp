// Decoding with native sparse attention, its cache and its costs.
#include "nsa_test_data.h"

namespace weft::attention {
namespace {

using autograd::Variable;
using testing::forward;
using testing::largest_difference;
using testing::make_nsa;
using testing::message_of;
using testing::nsa_variants;
using testing::random_tensor;
using testing::tiny_nsa;

TEST(Nsa, DecodesFromEveryPrefill) {
  for (const NsaOptions& options : nsa_variants()) {
    const auto layer = make_nsa(options);
    layer->to(DType::f64);
    const int64_t length = 27;
    const Tensor x = random_tensor({2, length, 16}, DType::f64, 1);
    const Tensor whole = forward(*layer, x);
    const auto cache = layer->make_cache(2, length, DType::f64, kCpu);
    for (int64_t first = 0; first < length; ++first) {
      SCOPED_TRACE(::testing::Message() << layer->describe() << " prefill " << first);
      cache->reset();
      const auto expect_rows = [&](int64_t begin, int64_t end) {
        const Variable rows(x.slice(1, begin, end));
        const Tensor y = layer->prefill(rows, *cache).data();
        EXPECT_LE(largest_difference(y, whole.slice(1, begin, end)), 1e-12) << begin << " " << end;
      };
      if (first > 0) expect_rows(0, first);
      int64_t t = first;
      for (; t < std::min(first + 3, length); ++t) expect_rows(t, t + 1);
      // A second prefill of a few tokens, then single ones.
      const int64_t next = std::min(t + 7, length);
      if (next > t) expect_rows(t, next);
      for (t = next; t < length; ++t) expect_rows(t, t + 1);
    }
  }
}

TEST(Nsa, DecodesLongAfterItsRingsWereOverwritten) {
  for (const bool shared : {false, true}) {
    NsaOptions options = tiny_nsa();
    options.shared_kv = shared;
    const auto layer = make_nsa(options);
    layer->to(DType::f64);
    const int64_t length = 140;
    const Tensor x = random_tensor({1, length, 16}, DType::f64, 1);
    const Tensor whole = forward(*layer, x);
    const auto cache = layer->make_cache(1, length, DType::f64, kCpu);
    for (int64_t t = 0; t < length; ++t) {
      EXPECT_LE(largest_difference(layer->step(Variable(x.slice(1, t, t + 1)), *cache).data(),
                                   whole.slice(1, t, t + 1)),
                1e-12)
          << t;
    }
  }
}

TEST(Nsa, CacheHoldsWhatItSays) {
  const NsaOptions tiny = tiny_nsa();
  const auto layer = make_nsa(tiny);
  // slc K and V of all 100 tokens, 49 compressed blocks and 4 raw rows, 5 rows of the window.
  EXPECT_EQ(layer->cache_bytes(100, DType::f32), (100 + 49 + 4 + 5) * 2 * (8 + 6) * 4);
  EXPECT_EQ(layer->cache_bytes(3, DType::bf16), (3 + 0 + 3 + 3) * 2 * (8 + 6) * 2);
  NsaOptions shared = tiny;
  shared.shared_kv = true;
  EXPECT_EQ(make_nsa(shared)->cache_bytes(100, DType::f32), (100 + 49 + 4) * 2 * (8 + 6) * 4);
  for (const NsaOptions& options : nsa_variants()) {
    const auto one = make_nsa(options);
    for (const int64_t capacity : {1, 3, 4, 20}) {
      const auto cache = one->make_cache(3, capacity, DType::bf16, kCpu);
      EXPECT_EQ(cache->bytes(), 3 * one->cache_bytes(capacity, DType::bf16))
          << one->describe() << " " << capacity;
    }
  }
}

TEST(Nsa, StepCostStopsGrowingButForCompressedKeys) {
  const auto layer = make_nsa(tiny_nsa());
  const double per_pair = 2.0 * 4 * (8 + 6), per_choice = 2.0 * 4 * 8;
  // Position 1000: 499 compressed keys, 2 whole blocks and one token, 5 tokens of the window. The
  // last block ends at 999, so that no block is made.
  EXPECT_DOUBLE_EQ(layer->step_cost(1000).core_flops, per_pair * (499 + 17 + 5) + per_choice * 499);
  // Position 2: no compressed key yet.
  EXPECT_DOUBLE_EQ(layer->step_cost(2).core_flops, per_pair * (3 + 3));
}

TEST(Nsa, CountsFlops) {
  const auto layer = make_nsa(tiny_nsa());
  for (const int64_t length : {3, 4, 29, 64}) {
    double compressed = 0, selected = 0, window = 0;
    for (int64_t t = 0; t < length; ++t) {
      compressed += t + 1 < 4 ? 0 : static_cast<double>((t + 1 - 4) / 2 + 1);
      selected += static_cast<double>((std::min<int64_t>(3, t / 8 + 1) - 1) * 8 + t % 8 + 1);
      window += static_cast<double>(std::min<int64_t>(t + 1, 5));
    }
    const double blocks = length < 4 ? 0 : static_cast<double>((length - 4) / 2 + 1);
    const nn::MixerCost cost = layer->forward_cost(length);
    EXPECT_DOUBLE_EQ(cost.core_flops, 2.0 * 4 * (8 + 6) * (compressed + selected + window) +
                                          2.0 * 4 * 8 * compressed + blocks * 2 * 4 * (8 + 6))
        << length;
    EXPECT_DOUBLE_EQ(cost.projection_flops, static_cast<double>(length) * 2 * 16 *
                                                (4 * 8 + 3 * 2 * (8 + 6) + 4 * 3 + 4 * 6));
  }
}

TEST(Nsa, AFailedPrefillLeavesTheCacheAsItWas) {
  const auto layer = make_nsa(tiny_nsa());
  const auto cache = layer->make_cache(1, 12, DType::f32, kCpu);
  const Tensor x = random_tensor({1, 12, 16}, DType::f32, 1);
  const Tensor whole = forward(*layer, x);
  layer->prefill(Variable(x.slice(1, 0, 9)), *cache);
  message_of<ShapeError>([&] { layer->prefill(Variable(x.slice(1, 0, 4)), *cache); });
  EXPECT_EQ(cache->length(), 9);
  EXPECT_LE(largest_difference(layer->prefill(Variable(x.slice(1, 9, 12)), *cache).data(),
                               whole.slice(1, 9, 12)),
            1e-5);
}

}  // namespace
}  // namespace weft::attention
