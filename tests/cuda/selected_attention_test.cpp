#include "weft/attention/kernels/selected_attention.h"

#include "weft/attention/kernels/latent_attention.h"
#include "weft/attention/selection_operations.h"
#include "weft/attention/selection_patterns.h"

#include "attention_cuda_test_data.h"
#include "selection_test_data.h"

namespace weft::attention {
namespace {

using testing::describe;
using testing::Draw;
using testing::exact;
using testing::kernel_tolerance;
using testing::kGpu;
using testing::on_gpu;
using testing::random_tensor;
using testing::relative_error;
using testing::same_bits_on_gpu;

class SelectedAttentionOnGpu : public testing::OnGpu {};

struct Problem {
  SelectionShape shape;
  int64_t kv_heads, group, dim, value_dim;
};

std::vector<Problem> problems() {
  const auto shape = [](int64_t batch, int64_t groups, int64_t queries, int64_t position,
                        int64_t query_tile, int64_t key_block) {
    return SelectionShape{.batch = batch,
                          .groups = groups,
                          .queries = queries,
                          .keys = position + queries,
                          .position = position,
                          .query_tile = query_tile,
                          .key_block = key_block};
  };
  return {
      {shape(1, 1, 70, 0, 1, 16), 1, 16, 64, 64},    {shape(2, 2, 133, 0, 1, 16), 2, 4, 64, 64},
      {shape(1, 2, 150, 37, 4, 16), 4, 4, 32, 48},   {shape(1, 1, 200, 11, 16, 64), 2, 4, 128, 128},
      {shape(1, 1, 300, 0, 64, 64), 1, 2, 64, 64},   {shape(1, 2, 129, 64, 32, 32), 2, 3, 33, 17},
      {shape(1, 1, 100, 0, 7, 5), 1, 1, 16, 16},     {shape(1, 1, 260, 40, 1, 100), 1, 8, 64, 64},
      {shape(1, 1, 40, 0, 64, 1024), 1, 2, 64, 64},  {shape(1, 1, 90, 0, 2, 64), 1, 32, 192, 128},
      {shape(2, 2, 1, 900, 1, 64), 2, 16, 128, 128}, {shape(1, 2, 1, 511, 16, 16), 4, 2, 64, 64},
      {shape(1, 1, 3, 2000, 4, 32), 1, 4, 40, 24},
  };
}

/// Lists of any kind: of few blocks, of all, none, also of blocks that no query of the tile sees.
Selection random_selection(const SelectionShape& shape, uint64_t seed, double density) {
  Draw draw(seed);
  std::vector<std::vector<int32_t>> lists(static_cast<size_t>(shape.lists()));
  for (std::vector<int32_t>& list : lists) {
    const int64_t kind = draw(0, 9);
    if (kind == 0) continue;
    for (int64_t block = 0; block < shape.blocks(); ++block) {
      if (kind == 1 || draw.chance(density)) list.push_back(static_cast<int32_t>(block));
    }
  }
  return Selection::from_lists(shape, lists);
}

TEST_F(SelectedAttentionOnGpu, AgreesWithTheCpu) {
  uint64_t seed = 0;
  for (const Problem& p : problems()) {
    for (const DType dtype : {DType::f32, DType::bf16, DType::f16, DType::f64}) {
      const SelectionShape& s = p.shape;
      SCOPED_TRACE(describe(s) + " " + std::string(to_string(dtype)));
      const Selection selection = random_selection(s, ++seed, 0.3), on = selection.to(kGpu);
      const int64_t heads = p.kv_heads * p.group;
      const Tensor q = random_tensor({s.batch, s.queries, heads, p.dim}, dtype, 1);
      const Tensor k = random_tensor({s.batch, s.keys, p.kv_heads, p.dim}, dtype, 2);
      const Tensor v = random_tensor({s.batch, s.keys, p.kv_heads, p.value_dim}, dtype, 3);
      const Tensor dout = random_tensor({s.batch, s.queries, heads, p.value_dim}, dtype, 4);
      const auto expected = selected_attention_forward(exact(q), exact(k), exact(v), selection);
      const auto result = selected_attention_forward(on_gpu(q), on_gpu(k), on_gpu(v), on);
      EXPECT_LE(relative_error(result.o, expected.o), kernel_tolerance(dtype));
      EXPECT_LE(relative_error(result.lse, expected.lse), dtype == DType::f64 ? 1e-12 : 5e-6);

      const auto gradients = selected_attention_backward(exact(dout), exact(q), exact(k), exact(v),
                                                         expected.o, expected.lse, selection);
      const auto backward = [&] {
        return selected_attention_backward(on_gpu(dout), on_gpu(q), on_gpu(k), on_gpu(v), result.o,
                                           result.lse, on);
      };
      const FlashAttentionGradients first = backward(), second = backward();
      const double tolerance = 2 * kernel_tolerance(dtype);
      EXPECT_LE(relative_error(first.dq, gradients.dq), tolerance);
      EXPECT_LE(relative_error(first.dk, gradients.dk), tolerance);
      EXPECT_LE(relative_error(first.dv, gradients.dv), tolerance);
      EXPECT_TRUE(same_bits_on_gpu(first.dq, second.dq));
      EXPECT_TRUE(same_bits_on_gpu(first.dk, second.dk));
      EXPECT_TRUE(same_bits_on_gpu(first.dv, second.dv));
    }
  }
}

TEST_F(SelectedAttentionOnGpu, AllBlocksAreFullAttention) {
  const SelectionShape shape{
      .groups = 2, .queries = 500, .keys = 500, .query_tile = 16, .key_block = 32};
  const Tensor q = on_gpu(random_tensor({1, 500, 8, 64}, DType::f32, 1));
  const Tensor k = on_gpu(random_tensor({1, 500, 2, 64}, DType::f32, 2));
  const Tensor v = on_gpu(random_tensor({1, 500, 2, 64}, DType::f32, 3));
  const auto all = selected_attention_forward(q, k, v, causal_selection(shape).to(kGpu));
  const auto full = flash_attention_forward(q, k, v);
  EXPECT_LE(relative_error(all.o, full.o), 5e-6);
  EXPECT_LE(relative_error(all.lse, full.lse), 5e-6);
}

TEST_F(SelectedAttentionOnGpu, ListedLatentsAgreeWithTheCpu) {
  for (const int64_t queries : {1, 3, 30}) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const SelectionShape shape{.batch = 2,
                                 .groups = 2,
                                 .queries = queries,
                                 .keys = 400,
                                 .position = 400 - queries,
                                 .query_tile = 4,
                                 .key_block = 16};
      SCOPED_TRACE(describe(shape));
      const Selection selection = random_selection(shape, 5, 0.4);
      const Tensor q = random_tensor({2, queries, 8, 64}, dtype, 1);
      const Tensor q_rope = random_tensor({2, queries, 8, 16}, dtype, 2);
      const Tensor c = random_tensor({2, 400, 2, 64}, dtype, 3);
      const Tensor r = random_tensor({2, 400, 1, 16}, dtype, 4);
      const SelectedAttentionOptions options{.scale = 0.1};
      const auto expected = selected_latent_attention_forward(exact(q), exact(q_rope), exact(c),
                                                              exact(r), selection, options);
      const auto result = selected_latent_attention_forward(on_gpu(q), on_gpu(q_rope), on_gpu(c),
                                                            on_gpu(r), selection.to(kGpu), options);
      EXPECT_LE(relative_error(result.o, expected.o), kernel_tolerance(dtype));
    }
  }
}

TEST_F(SelectedAttentionOnGpu, TransposedListsAreTheCpus) {
  std::vector<SelectionShape> shapes;
  for (const Problem& p : problems()) shapes.push_back(p.shape);
  // More columns than one pass of a scan, more rows than one pass of a warp, no rows, no columns.
  shapes.push_back({.queries = 1500, .keys = 9000, .query_tile = 1, .key_block = 8});
  shapes.push_back({.batch = 3, .groups = 2, .queries = 0, .keys = 50, .key_block = 8});
  shapes.push_back({.batch = 3, .groups = 2, .queries = 5, .keys = 0, .key_block = 8});
  Draw draw(9);
  for (int i = 0; i < 50; ++i) shapes.push_back(testing::random_shape(draw));
  uint64_t seed = 100;
  for (const SelectionShape& shape : shapes) {
    SCOPED_TRACE(describe(shape));
    const Selection selection = random_selection(shape, ++seed, 0.2);
    const TransposedSelection expected = transposed(selection),
                              readers = transposed(selection.to(kGpu));
    EXPECT_EQ(readers.offsets().to_vector<int64_t>(), expected.offsets().to_vector<int64_t>());
    EXPECT_EQ(readers.tiles().to_vector<int32_t>(), expected.tiles().to_vector<int32_t>());
    EXPECT_EQ(transposed(readers).blocks().to_vector<int32_t>(),
              selection.blocks().to_vector<int32_t>());
  }
}

}  // namespace
}  // namespace weft::attention
