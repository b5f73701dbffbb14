#include "weft/attention/kernels/flash_attention.h"

#include "weft/attention/kernels/latent_attention.h"

#include "attention_cuda_test_data.h"

namespace weft::attention {
namespace {

using testing::exact;
using testing::kernel_tolerance;
using testing::on_gpu;
using testing::random_tensor;
using testing::relative_error;
using testing::same_bits_on_gpu;
using testing::scattered_on_gpu;

class FlashAttentionOnGpu : public testing::OnGpu {};

struct Problem {
  int64_t batch, queries, keys, heads, kv_heads, dim, value_dim;
  FlashAttentionOptions options{};
};

std::ostream& operator<<(std::ostream& stream, const Problem& p) {
  stream << "B " << p.batch << " T " << p.queries << " S " << p.keys << " H " << p.heads << " Hk "
         << p.kv_heads << " D " << p.dim << " Dv " << p.value_dim;
  if (!p.options.causal) stream << " not causal";
  if (p.options.window > 0) stream << " window " << p.options.window;
  if (p.options.position) stream << " position " << *p.options.position;
  return stream << " key " << p.options.key_length << "/" << p.options.key_stride;
}

std::vector<Problem> many_rows() {
  std::vector<Problem> problems = {
      {2, 17, 17, 1, 1, 16, 16},     {1, 63, 111, 4, 2, 64, 64},
      {2, 130, 130, 6, 2, 40, 24},   {1, 65, 65, 2, 1, 33, 17},
      {1, 200, 333, 8, 2, 128, 128}, {1, 70, 70, 2, 2, 192, 128},
      {1, 65, 129, 2, 1, 256, 256},  {1, 40, 100, 4, 1, 80, 300},
      {1, 20, 7, 2, 1, 32, 32},  // rows that see nothing
      {1, 20, 0, 2, 1, 32, 32},  // no keys
      {3, 64, 64, 5, 5, 8, 1},       {1, 100, 100, 12, 4, 96, 96},
  };
  for (const int64_t window : {1, 17, 64, 100, 400})
    problems.push_back({1, 190, 230, 4, 2, 64, 64, {.window = window}});
  problems.push_back({1, 190, 70, 2, 2, 32, 32, {.window = 20}});
  problems.push_back({2, 90, 130, 4, 2, 64, 32, {.causal = false}});
  problems.push_back({1, 90, 230, 2, 2, 64, 32, {.causal = false, .window = 50}});
  problems.push_back({1, 90, 130, 4, 1, 48, 48, {.scale = 0.3, .position = 11}});
  problems.push_back(
      {1, 150, 17, 4, 2, 64, 64, {.position = 0, .key_length = 32, .key_stride = 8}});
  problems.push_back({1, 90, 60, 4, 2, 64, 64, {.position = 31, .key_length = 4, .key_stride = 2}});
  return problems;
}

std::vector<Problem> few_rows() {
  std::vector<Problem> problems;
  for (const int64_t keys : {1, 63, 64, 257, 1000, 5003})
    problems.push_back({2, 1, keys, 8, 2, 64, 64});
  // Whole and ragged parts, every number of lanes a key, and heads that share keys.
  for (const int64_t keys : {2, 15, 16, 65, 128, 129, 8191})
    problems.push_back({1, 1, keys, 4, 4, 64, 64});
  for (const int64_t dim : {8, 16, 40, 80, 96, 128, 256})
    problems.push_back({2, 1, 333, 6, 2, dim, dim});
  problems.push_back({1, 1, 1023, 16, 2, 128, 128});
  problems.push_back({5, 1, 2100, 12, 3, 80, 80});
  problems.push_back({1, 7, 500, 4, 2, 64, 64});
  problems.push_back({1, 9, 500, 2, 2, 64, 64, {.window = 33}});
  problems.push_back({1, 2, 9, 16, 2, 64, 64, {.causal = false}});
  problems.push_back({1, 5, 3, 4, 4, 64, 64});  // rows that see nothing
  problems.push_back({2, 1, 0, 4, 4, 64, 64});
  problems.push_back({1, 1, 4000, 8, 8, 128, 128, {.window = 1000, .scale = 0.3}});
  problems.push_back({1, 3, 900, 4, 4, 64, 64, {.window = 100, .position = 500}});
  problems.push_back({1, 1, 700, 32, 1, 128, 128});  // more rows than the smallest tile
  problems.push_back({1, 4, 700, 8, 2, 128, 64});
  problems.push_back({1, 16, 700, 2, 2, 33, 31});
  problems.push_back({1, 2, 900, 4, 1, 256, 256});
  problems.push_back({1, 1, 3000, 4, 2, 64, 64, {.window = 300}});
  problems.push_back({1, 3, 3000, 4, 2, 64, 64, {.window = 512}});
  problems.push_back(
      {1, 1, 200, 4, 2, 64, 64, {.position = 900, .key_length = 32, .key_stride = 4}});
  problems.push_back({2, 3, 1, 4, 2, 16, 16});
  return problems;
}

struct Inputs {
  Tensor q, k, v, dout;

  Inputs(const Problem& p, DType dtype)
      : q(random_tensor({p.batch, p.queries, p.heads, p.dim}, dtype, 1)),
        k(random_tensor({p.batch, p.keys, p.kv_heads, p.dim}, dtype, 2)),
        v(random_tensor({p.batch, p.keys, p.kv_heads, p.value_dim}, dtype, 3)),
        dout(random_tensor({p.batch, p.queries, p.heads, p.value_dim}, dtype, 4)) {}
};

void expect_forward_agrees(const Problem& problem, DType dtype) {
  SCOPED_TRACE(::testing::Message() << problem << " " << to_string(dtype));
  const Inputs x(problem, dtype);
  const auto expected =
      flash_attention_forward(exact(x.q), exact(x.k), exact(x.v), problem.options);
  const auto result =
      flash_attention_forward(on_gpu(x.q), on_gpu(x.k), on_gpu(x.v), problem.options);
  EXPECT_LE(relative_error(result.o, expected.o), kernel_tolerance(dtype));
  EXPECT_LE(relative_error(result.lse, expected.lse), dtype == DType::f64 ? 1e-12 : 5e-6);
  const auto again = flash_attention_forward(scattered_on_gpu(x.q), scattered_on_gpu(x.k),
                                             scattered_on_gpu(x.v), problem.options);
  EXPECT_TRUE(same_bits_on_gpu(again.o, result.o));
  EXPECT_TRUE(same_bits_on_gpu(again.lse, result.lse));
}

TEST_F(FlashAttentionOnGpu, ForwardAgreesWithTheCpu) {
  for (const Problem& problem : many_rows()) {
    for (const DType dtype : {DType::f32, DType::bf16, DType::f16, DType::f64})
      expect_forward_agrees(problem, dtype);
  }
}

TEST_F(FlashAttentionOnGpu, FewRowsAgreeWithTheCpu) {
  for (const Problem& problem : few_rows()) {
    for (const DType dtype : {DType::f32, DType::bf16, DType::f16, DType::f64})
      expect_forward_agrees(problem, dtype);
  }
}

TEST_F(FlashAttentionOnGpu, BackwardAgreesWithTheCpu) {
  std::vector<Problem> problems = many_rows();
  for (const Problem& problem : few_rows()) problems.push_back(problem);
  for (const Problem& problem : problems) {
    for (const DType dtype : {DType::f32, DType::bf16, DType::f16, DType::f64}) {
      SCOPED_TRACE(::testing::Message() << problem << " " << to_string(dtype));
      const Inputs x(problem, dtype);
      const auto out = flash_attention_forward(exact(x.q), exact(x.k), exact(x.v), problem.options);
      const auto expected = flash_attention_backward(exact(x.dout), exact(x.q), exact(x.k),
                                                     exact(x.v), out.o, out.lse, problem.options);
      const auto on =
          flash_attention_forward(on_gpu(x.q), on_gpu(x.k), on_gpu(x.v), problem.options);
      const auto result = flash_attention_backward(on_gpu(x.dout), on_gpu(x.q), on_gpu(x.k),
                                                   on_gpu(x.v), on.o, on.lse, problem.options);
      const double tolerance = 2 * kernel_tolerance(dtype);
      EXPECT_LE(relative_error(result.dq, expected.dq), tolerance);
      EXPECT_LE(relative_error(result.dk, expected.dk), tolerance);
      EXPECT_LE(relative_error(result.dv, expected.dv), tolerance);
      const auto again = flash_attention_backward(scattered_on_gpu(x.dout), scattered_on_gpu(x.q),
                                                  scattered_on_gpu(x.k), scattered_on_gpu(x.v),
                                                  on.o, on.lse, problem.options);
      EXPECT_TRUE(same_bits_on_gpu(again.dq, result.dq));
      EXPECT_TRUE(same_bits_on_gpu(again.dk, result.dk));
      EXPECT_TRUE(same_bits_on_gpu(again.dv, result.dv));
    }
  }
}

struct LatentProblem {
  int64_t batch, queries, keys, heads, groups, dim, rope_dim, window = 0;
};

TEST_F(FlashAttentionOnGpu, LatentsAgreeWithTheCpu) {
  for (const LatentProblem p :
       {LatentProblem{1, 1, 300, 16, 1, 512, 64}, LatentProblem{2, 1, 1000, 8, 2, 128, 32},
        LatentProblem{1, 3, 70, 4, 2, 20, 7}, LatentProblem{1, 1, 90, 40, 1, 512, 64},
        LatentProblem{1, 1, 700, 4, 1, 64, 0, 130}, LatentProblem{1, 40, 200, 8, 1, 96, 16}}) {
    for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
      SCOPED_TRACE(::testing::Message() << "S " << p.keys << " H " << p.heads << " D " << p.dim
                                        << " " << to_string(dtype));
      const Tensor q = random_tensor({p.batch, p.queries, p.heads, p.dim}, dtype, 1);
      const Tensor q_rope = random_tensor({p.batch, p.queries, p.heads, p.rope_dim}, dtype, 2);
      const Tensor c = random_tensor({p.batch, p.keys, p.groups, p.dim}, dtype, 3);
      const Tensor r = random_tensor({p.batch, p.keys, 1, p.rope_dim}, dtype, 4);
      const FlashAttentionOptions options{
          .window = p.window, .scale = 1 / std::sqrt(static_cast<double>(p.dim + p.rope_dim))};
      const auto expected =
          latent_attention_forward(exact(q), exact(q_rope), exact(c), exact(r), options);
      const auto result =
          latent_attention_forward(on_gpu(q), on_gpu(q_rope), on_gpu(c), on_gpu(r), options);
      EXPECT_LE(relative_error(result.o, expected.o), kernel_tolerance(dtype));
      EXPECT_LE(relative_error(result.lse, expected.lse), 5e-6);
    }
  }
}

}  // namespace
}  // namespace weft::attention
