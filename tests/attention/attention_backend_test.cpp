#include "weft/attention/attention_backend.h"

#include <gmock/gmock.h>

#include "weft/attention/kernels/flash_attention.h"
#include "weft/tensor/determinism.h"

#include "attention_test_data.h"
#include "reference/attention_reference.h"

namespace weft::attention {
namespace {

using ::testing::HasSubstr;
using testing::largest_difference;
using testing::message_of;
using testing::random_tensor;
using testing::root_mean_square;
using testing::scattered;

/// A choice of backend for one scope.
struct BackendScope {
  explicit BackendScope(AttentionBackend backend) { set_attention_backend(backend); }
  ~BackendScope() { set_attention_backend(AttentionBackend::automatic); }
};

TEST(AttentionBackend, HasNames) {
  for (const char* name : {"automatic", "cudnn", "weft", "reference"})
    EXPECT_EQ(to_string(parse_attention_backend(name)), name);
  const std::string message = message_of<ConfigError>([] { parse_attention_backend("flash"); });
  EXPECT_THAT(message, HasSubstr("flash"));
  EXPECT_THAT(message, HasSubstr("automatic, cudnn, weft and reference"));
}

TEST(AttentionBackend, IsKeptAndAutomaticAtFirst) {
  EXPECT_EQ(attention_backend(), AttentionBackend::automatic);
  {
    const BackendScope scope(AttentionBackend::weft);
    EXPECT_EQ(attention_backend(), AttentionBackend::weft);
  }
  EXPECT_EQ(attention_backend(), AttentionBackend::automatic);
}

TEST(AttentionBackend, DeterminismIsKeptAndOffAtFirst) {
  EXPECT_FALSE(is_deterministic());
  set_deterministic(true);
  EXPECT_TRUE(is_deterministic());
  set_deterministic(false);
}

TEST(AttentionBackend, CudnnRefusesTheCpuWithAReason) {
  const BackendScope scope(AttentionBackend::cudnn);
  const Tensor x = ones({1, 4, 2, 8}, DType::bf16), lse = ones({1, 2, 4}, DType::f32);
  for (const std::string& message :
       {message_of<NotImplementedError>([&] { flash_attention_forward(x, x, x); }),
        message_of<NotImplementedError>([&] { flash_attention_backward(x, x, x, x, x, lse); })}) {
    EXPECT_THAT(message, HasSubstr("cuDNN runs on GPUs"));
    EXPECT_THAT(message, HasSubstr("automatic, weft and reference"));
  }
}

TEST(AttentionBackend, ListenerHearsNothingOfTheCpu) {
  int calls = 0;
  set_attention_listener([&](const AttentionChoice&) { ++calls; });
  const Tensor x = ones({1, 4, 2, 8});
  flash_attention_forward(x, x, x);
  set_attention_listener({});
  EXPECT_EQ(calls, 0);
}

struct Case {
  int64_t batch, queries, keys, heads, kv_heads, dim, value_dim;
  FlashAttentionOptions options{};
};

TEST(ReferenceAttention, MatchesTheOracle) {
  const BackendScope scope(AttentionBackend::reference);
  const Case cases[] = {
      {2, 37, 37, 4, 2, 8, 6, {}},
      {1, 1, 1, 1, 1, 1, 1, {}},
      {1, 9, 40, 6, 2, 16, 24, {.window = 6}},
      {2, 20, 31, 3, 3, 8, 8, {.causal = false, .window = 9}},
      {1, 17, 17, 2, 1, 8, 8, {.causal = false, .scale = 0.3}},
      {1, 50, 20, 4, 2, 8, 8, {}},  // rows before the first key
      {1, 40, 40, 2, 1, 8, 8, {.window = 6, .position = 0}},
      {2, 64, 3, 4, 2, 8, 8, {.position = 0, .key_length = 32, .key_stride = 16}},
      {1, 3, 0, 2, 1, 8, 8, {.causal = false}},
      {0, 5, 5, 2, 1, 8, 8, {}},
  };
  for (const Case& c : cases) {
    for (const auto& [dtype, tolerance] : {std::pair{DType::f64, 1e-12},
                                           {DType::f32, 1e-5},
                                           {DType::f16, 5e-3},
                                           {DType::bf16, 4e-2}}) {
      SCOPED_TRACE(::testing::Message() << to_string(dtype) << " T" << c.queries << " S" << c.keys);
      const Tensor q = scattered(random_tensor({c.batch, c.queries, c.heads, c.dim}, dtype, 1));
      const Tensor k = random_tensor({c.batch, c.keys, c.kv_heads, c.dim}, dtype, 2);
      const Tensor v = random_tensor({c.batch, c.keys, c.kv_heads, c.value_dim}, dtype, 3);
      const Tensor dout = random_tensor({c.batch, c.queries, c.heads, c.value_dim}, dtype, 4);
      const auto out = flash_attention_forward(q, k, v, c.options);
      const auto grads = flash_attention_backward(dout, q, k, v, out.o, out.lse, c.options);
      const auto expected = reference::attention_forward(q, k, v, c.options);
      const auto expected_grads = reference::attention_backward(dout, q, k, v, c.options);
      EXPECT_EQ(out.o.dtype(), dtype);
      EXPECT_TRUE(out.o.is_contiguous());
      EXPECT_EQ(out.lse.dtype(), dtype == DType::f64 ? DType::f64 : DType::f32);
      const std::pair<Tensor, Tensor> pairs[] = {{out.o, expected.o},
                                                 {out.lse, expected.lse},
                                                 {grads.dq, expected_grads.dq},
                                                 {grads.dk, expected_grads.dk},
                                                 {grads.dv, expected_grads.dv}};
      for (size_t i = 0; i < std::size(pairs); ++i) {
        const double size = i == 1 ? 1 : std::max(1.0, root_mean_square(pairs[i].second));
        EXPECT_LE(largest_difference(pairs[i].first, pairs[i].second), tolerance * size) << i;
      }
    }
  }
}

TEST(ReferenceAttention, WritesGradientsIntoViews) {
  const BackendScope scope(AttentionBackend::reference);
  const Tensor x = random_tensor({1, 12, 2, 8}, DType::f64, 1);
  const auto out = flash_attention_forward(x, x, x);
  const auto plain = flash_attention_backward(x, x, x, x, out.o, out.lse);
  Tensor packed = zeros({1, 12, 6, 8}, DType::f64);
  FlashAttentionGradients views{packed.slice(2, 0, 2), packed.slice(2, 2, 4),
                                packed.slice(2, 4, 6)};
  flash_attention_backward_into(views, x, x, x, x, out.o, out.lse);
  EXPECT_EQ(largest_difference(packed.slice(2, 0, 2), plain.dq), 0);
  EXPECT_EQ(largest_difference(packed.slice(2, 2, 4), plain.dk), 0);
  EXPECT_EQ(largest_difference(packed.slice(2, 4, 6), plain.dv), 0);
}

}  // namespace
}  // namespace weft::attention
