#include "weft/tensor/op_table.h"

#include "weft/tensor/ops/activation.h"
#include "weft/tensor/ops/arithmetic.h"
#include "weft/tensor/ops/batch_norm.h"
#include "weft/tensor/ops/compare.h"
#include "weft/tensor/ops/conv.h"
#include "weft/tensor/ops/cross_entropy.h"
#include "weft/tensor/ops/cumsum.h"
#include "weft/tensor/ops/dropout.h"
#include "weft/tensor/ops/embedding.h"
#include "weft/tensor/ops/gather.h"
#include "weft/tensor/ops/layer_norm.h"
#include "weft/tensor/ops/linear.h"
#include "weft/tensor/ops/linear_activation.h"
#include "weft/tensor/ops/matmul.h"
#include "weft/tensor/ops/next_token.h"
#include "weft/tensor/ops/pool.h"
#include "weft/tensor/ops/random.h"
#include "weft/tensor/ops/reduce.h"
#include "weft/tensor/ops/rms_norm.h"
#include "weft/tensor/ops/rope.h"
#include "weft/tensor/ops/softmax.h"
#include "weft/tensor/ops/topk.h"
#include "weft/tensor/ops/unary.h"

#include "op_table_check.h"

namespace weft {
namespace {

using Caller = std::function<void(DType)>;

Tensor matrix(DType dtype) {
  return ones({2, 4}, dtype);
}
Tensor image(DType dtype) {
  return ones({1, 2, 4, 4}, dtype);
}
/// The type of means, sums and the like of `dtype`.
Tensor statistic(const Shape& shape, DType dtype) {
  return ones(shape, dtype == DType::f64 ? DType::f64 : DType::f32);
}
Tensor targets() {
  return zeros({2}, DType::i64);
}

/// One head of 4 each for queries, keys and values.
constexpr QkvSplit kSplit{.heads = 1, .kv_heads = 1, .head_dim = 4};

Caller of_one(Tensor (*op)(const Tensor&)) {
  return [op](DType dtype) { op(matrix(dtype)); };
}
Caller of_two(Tensor (*op)(const Tensor&, const Tensor&)) {
  return [op](DType dtype) { op(matrix(dtype), matrix(dtype)); };
}
Caller in_place(Tensor& (*op)(Tensor&, const Tensor&)) {
  return [op](DType dtype) {
    Tensor x = matrix(dtype);
    op(x, matrix(dtype));
  };
}
Caller reduction(Tensor (*op)(const Tensor&, const Axes&, bool)) {
  return [op](DType dtype) { op(matrix(dtype), 1, false); };
}
Caller on_axis(Tensor (*op)(const Tensor&, int, bool)) {
  return [op](DType dtype) { op(matrix(dtype), 1, false); };
}
template <class Op>
Caller random(Op op) {
  return [op](DType dtype) {
    Tensor x = matrix(dtype);
    Generator generator(1);
    op(x, generator);
  };
}

void add_elementwise(test::OpCallers& callers) {
  callers.insert({
      {"add", of_two(add)},
      {"sub", of_two(sub)},
      {"mul", of_two(mul)},
      {"div", of_two(div)},
      {"maximum", of_two(maximum)},
      {"minimum", of_two(minimum)},
      {"pow", of_two(pow)},
      {"neg", of_one(neg)},
      {"add_",
       [](DType dtype) {
         Tensor x = matrix(dtype);
         add_(x, matrix(dtype), 2.0);
       }},
      {"sub_", in_place(sub_)},
      {"mul_", in_place(mul_)},
      {"div_", in_place(div_)},
      {"eq", of_two(eq)},
      {"ne", of_two(ne)},
      {"lt", of_two(lt)},
      {"le", of_two(le)},
      {"gt", of_two(gt)},
      {"ge", of_two(ge)},
      {"logical_and", of_two(logical_and)},
      {"logical_or", of_two(logical_or)},
      {"logical_xor", of_two(logical_xor)},
      {"logical_not", of_one(logical_not)},
      {"where", [](DType dtype) { where(matrix(DType::boolean), matrix(dtype), matrix(dtype)); }},
      {"isnan", of_one(isnan)},
      {"isfinite", of_one(isfinite)},
      {"all_finite", [](DType dtype) { all_finite(matrix(dtype)); }},
      {"copy_", [](DType dtype) { matrix(dtype).copy_(matrix(dtype)); }},
      {"fill_", [](DType dtype) { matrix(dtype).fill_(1); }},
      {"square", of_one(square)},
      {"abs", of_one(abs)},
      {"relu", of_one(relu)},
      {"exp", of_one(exp)},
      {"expm1", of_one(expm1)},
      {"log", of_one(log)},
      {"log1p", of_one(log1p)},
      {"sqrt", of_one(sqrt)},
      {"rsqrt", of_one(rsqrt)},
      {"reciprocal", of_one(reciprocal)},
      {"sin", of_one(sin)},
      {"cos", of_one(cos)},
      {"tanh", of_one(tanh)},
      {"sigmoid", of_one(sigmoid)},
      {"erf", of_one(erf)},
      {"sign", of_one(sign)},
      {"floor", of_one(floor)},
      {"ceil", of_one(ceil)},
      {"round", of_one(round)},
      {"clamp", [](DType dtype) { clamp(matrix(dtype), 0, 1); }},
      {"unary_backward",
       [](DType dtype) { unary_backward(UnaryFunction::exp, matrix(dtype), matrix(dtype)); }},
      {"clamp_backward", [](DType dtype) { clamp_backward(matrix(dtype), 0, 1, matrix(dtype)); }},
      {"silu", of_one(silu)},
      {"silu_backward", of_two(silu_backward)},
      {"gelu", [](DType dtype) { gelu(matrix(dtype)); }},
      {"gelu_backward", [](DType dtype) { gelu_backward(matrix(dtype), matrix(dtype)); }},
      {"swiglu", of_two(swiglu)},
      {"swiglu_backward",
       [](DType dtype) { swiglu_backward(matrix(dtype), matrix(dtype), matrix(dtype)); }},
      {"dropout",
       [](DType dtype) {
         Generator generator(1);
         dropout(matrix(dtype), 0.5, generator);
       }},
      {"uniform_", random([](Tensor& x, Generator& g) { uniform_(x, 0, 1, g); })},
      {"normal_", random([](Tensor& x, Generator& g) { normal_(x, 0, 1, g); })},
      {"bernoulli_", random([](Tensor& x, Generator& g) { bernoulli_(x, 0.5, g); })},
      {"randint_", random([](Tensor& x, Generator& g) { randint_(x, 0, 3, g); })},
      {"permutation",
       [](DType dtype) {
         Generator generator(1);
         // The one op that has no operand: its type is that of the result.
         if (permutation(4, generator).dtype() != dtype) throw DTypeError("permutation");
       }},
  });
}

void add_lines(test::OpCallers& callers) {
  callers.insert({
      {"sum", reduction(sum)},
      {"any", reduction(any)},
      {"all", reduction(all)},
      {"max", reduction(max)},
      {"min", reduction(min)},
      {"mean", reduction(mean)},
      {"logsumexp", reduction(logsumexp)},
      {"argmax", on_axis(argmax)},
      {"argmin", on_axis(argmin)},
      {"var", [](DType dtype) { var(matrix(dtype), 1); }},
      {"norm", [](DType dtype) { norm(matrix(dtype), 1); }},
      {"cumsum", [](DType dtype) { cumsum(matrix(dtype), 1); }},
      {"topk", [](DType dtype) { topk(matrix(dtype), 2); }},
      {"softmax", [](DType dtype) { softmax(matrix(dtype)); }},
      {"log_softmax", [](DType dtype) { log_softmax(matrix(dtype)); }},
      {"softmax_backward", [](DType dtype) { softmax_backward(matrix(dtype), matrix(dtype)); }},
      {"log_softmax_backward",
       [](DType dtype) { log_softmax_backward(matrix(dtype), matrix(dtype)); }},
      {"gather",
       [](DType dtype) {
         gather(matrix(dtype), 1, zeros({2, 1}, DType::i64));
       }},
      {"index_select", [](DType dtype) { index_select(matrix(dtype), 0, targets()); }},
      {"scatter_add",
       [](DType dtype) {
         scatter_add(matrix(dtype), 1, zeros({2, 1}, DType::i64), ones({2, 1}, dtype));
       }},
      {"index_add", [](DType dtype) { index_add(matrix(dtype), 0, targets(), matrix(dtype)); }},
      {"token_rows", [](DType dtype) { token_rows(matrix(dtype), targets(), DType::f32); }},
      {"take_largest",
       [](DType dtype) {
         TokenState state{.tokens = targets(), .position = zeros({2}, DType::i64), .history = {}};
         take_largest(matrix(dtype), 4, state);
       }},
      {"embedding", [](DType dtype) { embedding(matrix(dtype), targets()); }},
      {"embedding_backward", [](DType dtype) { embedding_backward(matrix(dtype), targets(), 3); }},
      {"layer_norm", [](DType dtype) { layer_norm(matrix(dtype), ones({4}, dtype)); }},
      {"layer_norm_backward",
       [](DType dtype) {
         layer_norm_backward(matrix(dtype), matrix(dtype), ones({4}, dtype), statistic({2}, dtype),
                             statistic({2}, dtype));
       }},
      {"rms_norm", [](DType dtype) { rms_norm(matrix(dtype), ones({4}, dtype)); }},
      {"rms_norm_residual",
       [](DType dtype) { rms_norm_residual(matrix(dtype), matrix(dtype), ones({4}, dtype)); }},
      {"rms_norm_backward",
       [](DType dtype) {
         rms_norm_backward(matrix(dtype), matrix(dtype), ones({4}, dtype), statistic({2}, dtype));
       }},
      {"rope", [](DType dtype) { rope(image(dtype)); }},
      {"rope_backward", [](DType dtype) { rope_backward(image(dtype)); }},
      {"rope_qkv",
       [](DType dtype) {
         rope_qkv(ones({1, 2, 12}, dtype), kSplit);
       }},
      {"rope_qkv_backward",
       [](DType dtype) {
         const Tensor grad = ones({1, 2, 1, 4}, dtype);
         rope_qkv_backward({grad, grad, grad}, {1, 2, 12}, dtype, kSplit);
       }},
      {"cross_entropy", [](DType dtype) { cross_entropy(matrix(dtype), targets()); }},
      {"cross_entropy_backward",
       [](DType dtype) {
         cross_entropy_backward(statistic({2}, dtype), matrix(dtype), targets(),
                                statistic({2}, dtype));
       }},
      {"linear_cross_entropy",
       [](DType dtype) { linear_cross_entropy(matrix(dtype), matrix(dtype), targets()); }},
  });
}

void add_products(test::OpCallers& callers) {
  const auto weight = [](DType dtype) { return ones({3, 2, 2, 2}, dtype); };
  const auto convolved = [](DType dtype) { return ones({1, 3, 3, 3}, dtype); };
  const auto pooled = [](DType dtype) { return ones({1, 2, 2, 2}, dtype); };
  const auto channels = [](DType dtype) { return statistic({2}, dtype); };
  callers.insert({
      {"matmul", [](DType dtype) { matmul(matrix(dtype), matrix(dtype), {.transpose_b = true}); }},
      {"linear", [](DType dtype) { linear(matrix(dtype), matrix(dtype)); }},
      {"linear_backward_input",
       [](DType dtype) {
         linear_backward_input(ones({3, 2}, dtype), matrix(dtype));
       }},
      {"linear_activation",
       [](DType dtype) {
         linear_activation(matrix(dtype), matrix(dtype), {}, HiddenActivation::relu, true);
       }},
      {"linear_activation_backward",
       [](DType dtype) {
         linear_activation_backward(ones({3, 2}, dtype), matrix(dtype), {ones({3, 4}, dtype), {}},
                                    HiddenActivation::relu, true);
       }},
      {"conv2d", [=](DType dtype) { conv2d(image(dtype), weight(dtype)); }},
      {"conv2d_backward_input",
       [=](DType dtype) {
         conv2d_backward_input(convolved(dtype), weight(dtype), image(dtype).shape());
       }},
      {"conv2d_backward_weight",
       [=](DType dtype) {
         conv2d_backward_weight(convolved(dtype), image(dtype), weight(dtype).shape());
       }},
      {"max_pool2d", [](DType dtype) { max_pool2d(image(dtype)); }},
      {"max_pool2d_backward",
       [=](DType dtype) {
         max_pool2d_backward(pooled(dtype), zeros(pooled(dtype).shape(), DType::i64),
                             image(dtype).shape());
       }},
      {"avg_pool2d", [](DType dtype) { avg_pool2d(image(dtype)); }},
      {"avg_pool2d_backward",
       [=](DType dtype) { avg_pool2d_backward(pooled(dtype), image(dtype).shape()); }},
      {"batch_norm_train", [](DType dtype) { batch_norm_train(image(dtype), {}, {}); }},
      {"batch_norm_eval",
       [=](DType dtype) {
         batch_norm_eval(image(dtype), {}, {}, {channels(dtype), channels(dtype)});
       }},
      {"batch_norm_backward",
       [=](DType dtype) {
         batch_norm_backward(image(dtype), image(dtype), {}, channels(dtype), channels(dtype));
       }},
  });
}

TEST(OpTable, SaysWhatTheOpsTake) {
  test::OpCallers callers;
  add_elementwise(callers);
  add_lines(callers);
  add_products(callers);
  test::expect_truth(op_table(), callers);
}

TEST(OpTable, HoldsEveryKernel) {
  test::expect_all_kernels(WEFT_SOURCE_DIR "/tensor", op_table());
}

TEST(OpTable, HasAKernelOfEveryOpOnBothDevices) {
  test::expect_both_devices(op_table());
}

TEST(OpTable, NamesDevices) {
  for (const OpInfo& op : op_table().ops()) {
    const DTypeSet on_cuda = op.dtypes_on(DeviceType::cuda);
    for (const DType dtype : kEveryDType) {
      EXPECT_EQ(on_cuda.contains(dtype), op.on_cuda && op.dtypes.contains(dtype)) << op.name;
    }
  }
}

TEST(OpTable, CombinesSetsOfTypes) {
  static_assert(!DTypeSet().contains(DType::f64));
  static_assert(kFloatingTypes.contains(DType::bf16) && !kFloatingTypes.contains(DType::i32));
  static_assert(kNumericTypes.contains(DType::u8) && !kNumericTypes.contains(DType::boolean));
  for (const DType dtype : kEveryDType) {
    EXPECT_TRUE(kAllTypes.contains(dtype));
    EXPECT_EQ(kFloatingTypes.contains(dtype), is_floating(dtype));
    EXPECT_EQ(kIntegerTypes.contains(dtype), is_integer(dtype));
  }
}

}  // namespace
}  // namespace weft
