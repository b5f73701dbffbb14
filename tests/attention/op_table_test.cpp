#include "weft/attention/op_table.h"

#include "weft/attention/kernels/block_pool.h"
#include "weft/attention/kernels/block_selection.h"
#include "weft/attention/kernels/flash_attention.h"
#include "weft/attention/kernels/gated_sum.h"
#include "weft/attention/kernels/latent_attention.h"
#include "weft/attention/kernels/scored_attention.h"
#include "weft/attention/kernels/selected_attention.h"
#include "weft/attention/selection_operations.h"

#include "op_table_check.h"

namespace weft::attention {
namespace {

TEST(AttentionOpTable, SaysWhatThePrimitivesTake) {
  const auto heads = [](DType dtype) { return ones({1, 3, 2, 4}, dtype); };
  const Selection selection = Selection::from_lists({.groups = 2, .queries = 3, .keys = 3},
                                                    std::vector<std::vector<int32_t>>(6, {0}));
  const test::OpCallers callers = {
      {"gated_sum",
       [=](DType dtype) { gated_sum_forward({heads(dtype)}, heads(dtype).slice(3, 0, 1)); }},
      {"gated_sum_backward",
       [=](DType dtype) {
         gated_sum_backward(heads(dtype), {heads(dtype)}, heads(dtype).slice(3, 0, 1));
       }},
      {"block_pool",
       [=](DType dtype) {
         block_pool_forward(heads(dtype), {2, 1});
       }},
      {"block_pool_backward",
       [=](DType dtype) {
         block_pool_backward_input(heads(dtype), 4, {2, 1});
       }},
      {"block_unfold",
       [=](DType dtype) {
         block_unfold_forward(heads(dtype), {2, 1});
       }},
      {"block_unfold_backward",
       [=](DType dtype) {
         block_unfold_backward_input(heads(dtype), 4, {2, 1});
       }},
      {"flash_attention",
       [=](DType dtype) { flash_attention_forward(heads(dtype), heads(dtype), heads(dtype)); }},
      {"flash_attention_backward",
       [=](DType dtype) {
         const Tensor x = heads(dtype);
         const Tensor lse = ones({1, 2, 3}, dtype == DType::f64 ? DType::f64 : DType::f32);
         flash_attention_backward(x, x, x, x, x, lse);
       }},
      {"select_blocks",
       [=](DType dtype) {
         const Tensor lse = ones({1, 2, 3}, dtype == DType::f64 ? DType::f64 : DType::f32);
         select_blocks(
             heads(dtype), heads(dtype), lse, 0, 3,
             {.compression_block = 1, .compression_stride = 1, .key_block = 1, .count = 3});
       }},
      {"latent_attention",
       [=](DType dtype) {
         latent_attention_forward(heads(dtype), heads(dtype), heads(dtype),
                                  ones({1, 3, 1, 4}, dtype), {.scale = 1.0});
       }},
      {"scored_attention",
       [=](DType dtype) {
         scored_attention_forward(heads(dtype).slice(1, 0, 1), heads(dtype), heads(dtype), {});
       }},
      {"select_blocks_by_scores",
       [=](DType dtype) {
         select_blocks_by_scores({{}, ones({1, 2, 1}, dtype), ones({1, 2, 3}, dtype)}, 2, 2, 3,
                                 {.compression_block = 1,
                                  .compression_stride = 1,
                                  .key_block = 1,
                                  .count = 3,
                                  .scale = 1.0});
       }},
      {"selected_attention",
       [=](DType dtype) {
         selected_attention_forward(heads(dtype), heads(dtype), heads(dtype), selection);
       }},
      {"selected_attention_backward",
       [=](DType dtype) {
         const Tensor x = heads(dtype);
         const Tensor lse = ones({1, 2, 3}, dtype == DType::f64 ? DType::f64 : DType::f32);
         selected_attention_backward(x, x, x, x, x, lse, selection);
       }},
      {"transposed",
       [=](DType dtype) {
         // Lists are always of one type.
         if (transposed(selection).tiles().dtype() != dtype) throw DTypeError("transposed");
       }},
  };
  test::expect_truth(op_table(), callers);
}

TEST(AttentionOpTable, HasAKernelOfEveryPrimitiveOnBothDevices) {
  // Decoding on a GPU goes another way than by kept scores.
  test::expect_both_devices(op_table(), {"scored_attention", "select_blocks_by_scores"});
}

TEST(AttentionOpTable, HoldsEveryKernel) {
  test::expect_all_kernels(WEFT_SOURCE_DIR "/attention", op_table());
}

}  // namespace
}  // namespace weft::attention
