// Pools, unfolded blocks, gated sums and the choice of blocks.
#include "weft/attention/kernels/block_pool.h"
#include "weft/attention/kernels/block_selection.h"
#include "weft/attention/kernels/flash_attention.h"
#include "weft/attention/kernels/gated_sum.h"

#include "attention_cuda_test_data.h"
#include "selection_test_data.h"

namespace weft::attention {
namespace {

using testing::exact;
using testing::kernel_tolerance;
using testing::kGpu;
using testing::lists_of;
using testing::on_gpu;
using testing::random_tensor;
using testing::relative_error;
using testing::same_bits_on_gpu;
using testing::scattered_on_gpu;

const std::vector<DType> kTypes = {DType::f32, DType::bf16, DType::f16, DType::f64};

DType sum_type(DType dtype) {
  return dtype == DType::f64 ? DType::f64 : DType::f32;
}

class BlockKernelsOnGpu : public testing::OnGpu {};

struct PoolProblem {
  int64_t batch, tokens, heads, dim;
  BlockShape shape;
};

const std::vector<PoolProblem> kPools = {{2, 63, 3, 17, {4, 2}}, {1, 111, 2, 64, {16, 16}},
                                         {1, 15, 1, 8, {16, 4}}, {1, 200, 4, 128, {32, 8}},
                                         {3, 40, 2, 5, {7, 3}},  {1, 33, 2, 16, {1, 1}}};

TEST_F(BlockKernelsOnGpu, PoolsAgreeWithTheCpu) {
  for (const PoolProblem& p : kPools) {
    for (const DType dtype : kTypes) {
      for (const int64_t rows : {int64_t{0}, int64_t{1}, p.heads}) {
        SCOPED_TRACE(::testing::Message() << "T " << p.tokens << " l " << p.shape.block << " d "
                                          << p.shape.stride << " " << to_string(dtype));
        const Tensor x = random_tensor({p.batch, p.tokens, p.heads, p.dim}, dtype, 1);
        const int64_t count = p.shape.count(p.tokens);
        const Tensor dy = random_tensor({p.batch, count, p.heads, p.dim}, dtype, 2);
        Tensor weights, positions;
        if (rows > 0) {
          weights = random_tensor({rows, p.shape.block}, sum_type(dtype), 3);
          positions = random_tensor({p.heads, p.shape.block, p.dim}, sum_type(dtype), 4);
        }
        const Tensor y =
            block_pool_forward(scattered_on_gpu(x), p.shape, on_gpu(weights), on_gpu(positions));
        const double tolerance = kernel_tolerance(dtype);
        EXPECT_LE(relative_error(
                      y, block_pool_forward(exact(x), p.shape, exact(weights), exact(positions))),
                  tolerance);
        const auto expected =
            block_pool_backward(exact(dy), exact(x), p.shape, exact(weights), exact(positions));
        const auto result = block_pool_backward(on_gpu(dy), scattered_on_gpu(x), p.shape,
                                                on_gpu(weights), on_gpu(positions));
        EXPECT_LE(relative_error(result.dx, expected.dx), tolerance);
        if (rows > 0) {
          EXPECT_LE(relative_error(result.dweights, expected.dweights), tolerance);
          EXPECT_LE(relative_error(result.dpositions, expected.dpositions), tolerance);
        }
        EXPECT_TRUE(same_bits_on_gpu(
            block_pool_backward_input(on_gpu(dy), p.tokens, p.shape, on_gpu(weights)), result.dx));
      }
    }
  }
}

TEST_F(BlockKernelsOnGpu, UnfoldedBlocksAgreeWithTheCpu) {
  for (const PoolProblem& p : kPools) {
    for (const DType dtype : kTypes) {
      const Tensor x = random_tensor({p.batch, p.tokens, p.heads, p.dim}, dtype, 1);
      const Tensor positions = random_tensor({p.heads, p.shape.block, p.dim}, sum_type(dtype), 4);
      for (const Tensor& added : {Tensor(), positions}) {
        EXPECT_TRUE(
            same_bits_on_gpu(block_unfold_forward(scattered_on_gpu(x), p.shape, on_gpu(added)),
                             block_unfold_forward(x, p.shape, added)));
      }
      const Tensor dz = random_tensor(
          {p.batch, p.shape.count(p.tokens), p.heads, p.shape.block * p.dim}, dtype, 2);
      EXPECT_LE(relative_error(block_unfold_backward_input(on_gpu(dz), p.tokens, p.shape),
                               block_unfold_backward_input(exact(dz), p.tokens, p.shape)),
                kernel_tolerance(dtype));
    }
  }
}

TEST_F(BlockKernelsOnGpu, GatedSumsAgreeWithTheCpu) {
  for (const Shape& shape : {Shape{2, 15, 3, 17}, Shape{1, 63, 4, 64}, Shape{1, 1, 1, 1},
                             Shape{1, 111, 2, 128}, Shape{0, 5, 2, 8}}) {
    for (const DType dtype : kTypes) {
      for (const int64_t count : {1, 2, 3, 4}) {
        std::vector<Tensor> branches, branches_exact, branches_on;
        for (int64_t c = 0; c < count; ++c) {
          branches.push_back(random_tensor(shape, dtype, static_cast<uint64_t>(c)));
          branches_exact.push_back(exact(branches.back()));
          branches_on.push_back(scattered_on_gpu(branches.back()));
        }
        const Tensor logits = random_tensor({shape[0], shape[1], shape[2], count}, dtype, 10);
        const Tensor dy = random_tensor(shape, dtype, 11);
        Tensor bias;
        if (count > 1) bias = random_tensor({shape[2], count}, sum_type(dtype), 12);
        const double tolerance = kernel_tolerance(dtype);
        EXPECT_LE(relative_error(gated_sum_forward(branches_on, on_gpu(logits), on_gpu(bias)),
                                 gated_sum_forward(branches_exact, exact(logits), exact(bias))),
                  tolerance);
        const auto expected =
            gated_sum_backward(exact(dy), branches_exact, exact(logits), exact(bias));
        const auto result =
            gated_sum_backward(on_gpu(dy), branches_on, on_gpu(logits), on_gpu(bias));
        EXPECT_LE(relative_error(result.dlogits, expected.dlogits), tolerance);
        for (size_t c = 0; c < branches.size(); ++c)
          EXPECT_LE(relative_error(result.dbranches[c], expected.dbranches[c]), tolerance);
        if (bias.defined()) {
          // From rounded dlogits.
          EXPECT_LE(relative_error(result.dbias, expected.dbias), 2 * tolerance);
        }
      }
    }
  }
}

struct ChoiceProblem {
  int64_t batch, queries, position, heads, groups, dim;
  BlockSelectionOptions options;
};

const std::vector<ChoiceProblem> kChoices = {
    {2, 300, 0, 8, 2, 32, {.compression_block = 8, .compression_stride = 4, .count = 6}},
    {1,
     700,
     0,
     4,
     1,
     64,
     {.compression_block = 32, .compression_stride = 16, .key_block = 64, .count = 5}},
    {1,
     200,
     65,
     6,
     2,
     33,
     {.compression_block = 4,
      .compression_stride = 2,
      .key_block = 8,
      .count = 7,
      .initial = 0,
      .local = 1}},
    {1, 512, 0, 2, 2, 16, {.count = 4, .query_tile = 16}},
    {1,
     400,
     100,
     80,
     1,
     40,
     {.compression_block = 16,
      .compression_stride = 8,
      .key_block = 16,
      .count = 8,
      .query_tile = 4}},  // more heads than rows of a tile
    {2,
     1,
     999,
     16,
     4,
     128,
     {.compression_block = 32, .compression_stride = 16, .key_block = 64, .count = 8}},
    {1, 1, 60, 4, 2, 32, {.count = 4}},
    {1, 130, 0, 4, 2, 32, {.count = 3}},  // all forced
};

/// Part of the blocks of `a` that `b` has too.
double shared_part(const Selection& a, const Selection& b) {
  const auto x = lists_of(a), y = lists_of(b);
  EXPECT_EQ(x.size(), y.size());
  double all = 0, shared = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    EXPECT_EQ(x[i].size(), y[i].size());
    EXPECT_TRUE(std::is_sorted(x[i].begin(), x[i].end()));
    for (const int32_t block : x[i])
      shared += std::binary_search(y[i].begin(), y[i].end(), block) ? 1 : 0;
    all += static_cast<double>(x[i].size());
  }
  return all > 0 ? shared / all : 1;
}

TEST_F(BlockKernelsOnGpu, ChosenBlocksAreTheCpus) {
  for (const ChoiceProblem& p : kChoices) {
    for (const DType dtype : kTypes) {
      SCOPED_TRACE(::testing::Message() << "T " << p.queries << " at " << p.position << " H "
                                        << p.heads << " " << to_string(dtype));
      const int64_t keys = p.position + p.queries;
      const BlockShape blocks{p.options.compression_block, p.options.compression_stride};
      const Tensor q = random_tensor({p.batch, p.queries, p.heads, p.dim}, dtype, 1);
      const Tensor k = random_tensor({p.batch, blocks.count(keys), p.groups, p.dim}, dtype, 2);
      const auto attention = flash_attention_forward(
          q, k, k,
          {.position = p.position, .key_length = blocks.block, .key_stride = blocks.stride});
      BlockSelectionOptions options = p.options;
      options.scale = 1 / std::sqrt(static_cast<double>(p.dim));
      options.query_tile = p.position % options.query_tile == 0 ? options.query_tile : 1;
      const Selection expected = select_blocks(q, k, attention.lse, p.position, keys, options);
      const Selection chosen =
          select_blocks(on_gpu(q), on_gpu(k), on_gpu(attention.lse), p.position, keys, options);
      EXPECT_EQ(chosen.device(), kGpu);
      // Sums of another order may swap blocks that are all but equal.
      EXPECT_GE(shared_part(chosen.to(kCpu), expected), dtype == DType::f64 ? 1 : 0.999);
    }
  }
}

TEST_F(BlockKernelsOnGpu, EqualBlocksAreTakenInOrder) {
  const Tensor q = random_tensor({1, 400, 4, 32}, DType::f32, 1);
  const Tensor k = zeros({1, 25, 2, 32});
  const Tensor lse = zeros({1, 4, 400});
  const BlockSelectionOptions options{.count = 7};
  EXPECT_EQ(lists_of(select_blocks(on_gpu(q), on_gpu(k), on_gpu(lse), 0, 400, options).to(kCpu)),
            lists_of(select_blocks(q, k, lse, 0, 400, options)));
}

TEST_F(BlockKernelsOnGpu, RunsInheritTheirLists) {
  const int64_t total = 300;
  const BlockSelectionOptions options{.compression_block = 8,
                                      .compression_stride = 4,
                                      .key_block = 16,
                                      .count = 5,
                                      .query_tile = 8};
  const Tensor q = random_tensor({2, total, 4, 32}, DType::f64, 1);
  const Tensor k = random_tensor({2, 74, 2, 32}, DType::f64, 2);
  const auto lse =
      flash_attention_forward(q, k, k, {.position = 0, .key_length = 8, .key_stride = 4}).lse;
  const auto call = [&](Device device, int64_t begin, int64_t end, const Selection* inherited) {
    return select_blocks(q.slice(1, begin, end).to(device),
                         k.slice(1, 0, (end - 8) / 4 + 1).to(device),
                         lse.slice(2, begin, end).to(device), begin, end, options, inherited);
  };
  const Selection first = call(kCpu, 0, 203, nullptr), first_on = call(kGpu, 0, 203, nullptr);
  EXPECT_EQ(lists_of(first_on.to(kCpu)), lists_of(first));
  EXPECT_EQ(lists_of(call(kGpu, 203, total, &first_on).to(kCpu)),
            lists_of(call(kCpu, 203, total, &first)));
}

}  // namespace
}  // namespace weft::attention
