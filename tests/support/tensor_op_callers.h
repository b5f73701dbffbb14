#pragma once

// Calls of every op of tensor/, for tests that hold its table against the library.
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

namespace weft::test {

/// Operands of ops on one device.
class OpOperands {
 public:
  explicit OpOperands(Device device) : device_(device) {}

  Tensor filled(const Shape& shape, DType dtype) const { return ones(shape, dtype, device_); }
  Tensor matrix(DType dtype) const { return filled({2, 4}, dtype); }
  Tensor image(DType dtype) const { return filled({1, 2, 4, 4}, dtype); }
  /// Of the type of means, sums and the like of `dtype`.
  Tensor statistic(const Shape& shape, DType dtype) const {
    return filled(shape, dtype == DType::f64 ? DType::f64 : DType::f32);
  }
  Tensor ids(const Shape& shape) const { return zeros(shape, DType::i64, device_); }
  Tensor targets() const { return ids({2}); }
  Device device() const { return device_; }

 private:
  Device device_;
};

/// Makes callers of ops of the same form.
class OpCallerMaker {
 public:
  using Caller = std::function<void(DType)>;

  explicit OpCallerMaker(const OpOperands& operands) : on_(operands) {}

  Caller of_one(Tensor (*op)(const Tensor&)) const {
    return [op, on = on_](DType dtype) { op(on.matrix(dtype)); };
  }
  Caller of_two(Tensor (*op)(const Tensor&, const Tensor&)) const {
    return [op, on = on_](DType dtype) { op(on.matrix(dtype), on.matrix(dtype)); };
  }
  Caller in_place(Tensor& (*op)(Tensor&, const Tensor&)) const {
    return [op, on = on_](DType dtype) {
      Tensor x = on.matrix(dtype);
      op(x, on.matrix(dtype));
    };
  }
  Caller reduction(Tensor (*op)(const Tensor&, const Axes&, bool)) const {
    return [op, on = on_](DType dtype) { op(on.matrix(dtype), 1, false); };
  }
  Caller on_axis(Tensor (*op)(const Tensor&, int, bool)) const {
    return [op, on = on_](DType dtype) { op(on.matrix(dtype), 1, false); };
  }
  template <class Op>
  Caller random(Op op) const {
    return [op, on = on_](DType dtype) {
      Tensor x = on.matrix(dtype);
      Generator generator(1);
      op(x, generator);
    };
  }

 private:
  OpOperands on_;
};

/// One head of 4 each for queries, keys and values.
inline constexpr QkvSplit kOneHead{.heads = 1, .kv_heads = 1, .head_dim = 4};

inline void add_elementwise_callers(OpCallers& callers, const OpOperands& on) {
  const OpCallerMaker make(on);
  callers.insert({
      {"add", make.of_two(add)},
      {"sub", make.of_two(sub)},
      {"mul", make.of_two(mul)},
      {"div", make.of_two(div)},
      {"maximum", make.of_two(maximum)},
      {"minimum", make.of_two(minimum)},
      {"pow", make.of_two(pow)},
      {"neg", make.of_one(neg)},
      {"add_",
       [=](DType dtype) {
         Tensor x = on.matrix(dtype);
         add_(x, on.matrix(dtype), 2.0);
       }},
      {"sub_", make.in_place(sub_)},
      {"mul_", make.in_place(mul_)},
      {"div_", make.in_place(div_)},
      {"eq", make.of_two(eq)},
      {"ne", make.of_two(ne)},
      {"lt", make.of_two(lt)},
      {"le", make.of_two(le)},
      {"gt", make.of_two(gt)},
      {"ge", make.of_two(ge)},
      {"logical_and", make.of_two(logical_and)},
      {"logical_or", make.of_two(logical_or)},
      {"logical_xor", make.of_two(logical_xor)},
      {"logical_not", make.of_one(logical_not)},
      {"where",
       [=](DType dtype) { where(on.matrix(DType::boolean), on.matrix(dtype), on.matrix(dtype)); }},
      {"isnan", make.of_one(isnan)},
      {"isfinite", make.of_one(isfinite)},
      {"all_finite", [=](DType dtype) { all_finite(on.matrix(dtype)); }},
      {"copy_", [=](DType dtype) { on.matrix(dtype).copy_(on.matrix(dtype)); }},
      {"fill_", [=](DType dtype) { on.matrix(dtype).fill_(1); }},
      {"square", make.of_one(square)},
      {"abs", make.of_one(abs)},
      {"relu", make.of_one(relu)},
      {"exp", make.of_one(exp)},
      {"expm1", make.of_one(expm1)},
      {"log", make.of_one(log)},
      {"log1p", make.of_one(log1p)},
      {"sqrt", make.of_one(sqrt)},
      {"rsqrt", make.of_one(rsqrt)},
      {"reciprocal", make.of_one(reciprocal)},
      {"sin", make.of_one(sin)},
      {"cos", make.of_one(cos)},
      {"tanh", make.of_one(tanh)},
      {"sigmoid", make.of_one(sigmoid)},
      {"erf", make.of_one(erf)},
      {"sign", make.of_one(sign)},
      {"floor", make.of_one(floor)},
      {"ceil", make.of_one(ceil)},
      {"round", make.of_one(round)},
      {"clamp", [=](DType dtype) { clamp(on.matrix(dtype), 0, 1); }},
      {"unary_backward",
       [=](DType dtype) {
         unary_backward(UnaryFunction::exp, on.matrix(dtype), on.matrix(dtype));
       }},
      {"clamp_backward",
       [=](DType dtype) { clamp_backward(on.matrix(dtype), 0, 1, on.matrix(dtype)); }},
      {"silu", make.of_one(silu)},
      {"silu_backward", make.of_two(silu_backward)},
      {"gelu", [=](DType dtype) { gelu(on.matrix(dtype)); }},
      {"gelu_backward", [=](DType dtype) { gelu_backward(on.matrix(dtype), on.matrix(dtype)); }},
      {"swiglu", make.of_two(swiglu)},
      {"swiglu_backward",
       [=](DType dtype) { swiglu_backward(on.matrix(dtype), on.matrix(dtype), on.matrix(dtype)); }},
      {"dropout",
       [=](DType dtype) {
         Generator generator(1);
         dropout(on.matrix(dtype), 0.5, generator);
       }},
      {"uniform_", make.random([](Tensor& x, Generator& g) { uniform_(x, 0, 1, g); })},
      {"normal_", make.random([](Tensor& x, Generator& g) { normal_(x, 0, 1, g); })},
      {"bernoulli_", make.random([](Tensor& x, Generator& g) { bernoulli_(x, 0.5, g); })},
      {"randint_", make.random([](Tensor& x, Generator& g) { randint_(x, 0, 3, g); })},
      {"permutation",
       [=](DType dtype) {
         Generator generator(1);
         // The one op that has no operand: its type is that of the result.
         if (permutation(4, generator, on.device()).dtype() != dtype)
           throw DTypeError("permutation");
       }},
  });
}

inline void add_lines_callers(OpCallers& callers, const OpOperands& on) {
  const OpCallerMaker make(on);
  callers.insert({
      {"sum", make.reduction(sum)},
      {"any", make.reduction(any)},
      {"all", make.reduction(all)},
      {"max", make.reduction(max)},
      {"min", make.reduction(min)},
      {"mean", make.reduction(mean)},
      {"logsumexp", make.reduction(logsumexp)},
      {"argmax", make.on_axis(argmax)},
      {"argmin", make.on_axis(argmin)},
      {"var", [=](DType dtype) { var(on.matrix(dtype), 1); }},
      {"norm", [=](DType dtype) { norm(on.matrix(dtype), 1); }},
      {"cumsum", [=](DType dtype) { cumsum(on.matrix(dtype), 1); }},
      {"topk", [=](DType dtype) { topk(on.matrix(dtype), 2); }},
      {"softmax", [=](DType dtype) { softmax(on.matrix(dtype)); }},
      {"log_softmax", [=](DType dtype) { log_softmax(on.matrix(dtype)); }},
      {"softmax_backward",
       [=](DType dtype) { softmax_backward(on.matrix(dtype), on.matrix(dtype)); }},
      {"log_softmax_backward",
       [=](DType dtype) { log_softmax_backward(on.matrix(dtype), on.matrix(dtype)); }},
      {"gather",
       [=](DType dtype) {
         gather(on.matrix(dtype), 1, on.ids({2, 1}));
       }},
      {"index_select", [=](DType dtype) { index_select(on.matrix(dtype), 0, on.targets()); }},
      {"scatter_add",
       [=](DType dtype) {
         scatter_add(on.matrix(dtype), 1, on.ids({2, 1}), on.filled({2, 1}, dtype));
       }},
      {"index_add",
       [=](DType dtype) { index_add(on.matrix(dtype), 0, on.targets(), on.matrix(dtype)); }},
      {"token_rows", [=](DType dtype) { token_rows(on.matrix(dtype), on.targets(), DType::f32); }},
      {"take_largest",
       [=](DType dtype) {
         TokenState state{.tokens = on.targets(), .position = on.ids({2}), .history = {}};
         take_largest(on.matrix(dtype), 4, state);
       }},
      {"embedding", [=](DType dtype) { embedding(on.matrix(dtype), on.targets()); }},
      {"embedding_backward",
       [=](DType dtype) { embedding_backward(on.matrix(dtype), on.targets(), 3); }},
      {"layer_norm", [=](DType dtype) { layer_norm(on.matrix(dtype), on.filled({4}, dtype)); }},
      {"layer_norm_backward",
       [=](DType dtype) {
         layer_norm_backward(on.matrix(dtype), on.matrix(dtype), on.filled({4}, dtype),
                             on.statistic({2}, dtype), on.statistic({2}, dtype));
       }},
      {"rms_norm", [=](DType dtype) { rms_norm(on.matrix(dtype), on.filled({4}, dtype)); }},
      {"rms_norm_residual",
       [=](DType dtype) {
         rms_norm_residual(on.matrix(dtype), on.matrix(dtype), on.filled({4}, dtype));
       }},
      {"rms_norm_backward",
       [=](DType dtype) {
         rms_norm_backward(on.matrix(dtype), on.matrix(dtype), on.filled({4}, dtype),
                           on.statistic({2}, dtype));
       }},
      {"rope", [=](DType dtype) { rope(on.image(dtype)); }},
      {"rope_backward", [=](DType dtype) { rope_backward(on.image(dtype)); }},
      {"rope_qkv",
       [=](DType dtype) {
         rope_qkv(on.filled({1, 2, 12}, dtype), kOneHead);
       }},
      {"rope_qkv_backward",
       [=](DType dtype) {
         const Tensor grad = on.filled({1, 2, 1, 4}, dtype);
         rope_qkv_backward({grad, grad, grad}, {1, 2, 12}, dtype, kOneHead);
       }},
      {"cross_entropy", [=](DType dtype) { cross_entropy(on.matrix(dtype), on.targets()); }},
      {"cross_entropy_backward",
       [=](DType dtype) {
         cross_entropy_backward(on.statistic({2}, dtype), on.matrix(dtype), on.targets(),
                                on.statistic({2}, dtype));
       }},
      {"linear_cross_entropy",
       [=](DType dtype) {
         linear_cross_entropy(on.matrix(dtype), on.matrix(dtype), on.targets());
       }},
  });
}

inline void add_products_callers(OpCallers& callers, const OpOperands& on) {
  const OpCallerMaker make(on);
  const auto weight = [=](DType dtype) { return on.filled({3, 2, 2, 2}, dtype); };
  const auto convolved = [=](DType dtype) { return on.filled({1, 3, 3, 3}, dtype); };
  const auto pooled = [=](DType dtype) { return on.filled({1, 2, 2, 2}, dtype); };
  const auto channels = [=](DType dtype) { return on.statistic({2}, dtype); };
  callers.insert({
      {"matmul",
       [=](DType dtype) { matmul(on.matrix(dtype), on.matrix(dtype), {.transpose_b = true}); }},
      {"linear", [=](DType dtype) { linear(on.matrix(dtype), on.matrix(dtype)); }},
      {"linear_backward_input",
       [=](DType dtype) {
         linear_backward_input(on.filled({3, 2}, dtype), on.matrix(dtype));
       }},
      {"linear_activation",
       [=](DType dtype) {
         linear_activation(on.matrix(dtype), on.matrix(dtype), {}, HiddenActivation::relu, true);
       }},
      {"linear_activation_backward",
       [=](DType dtype) {
         linear_activation_backward(on.filled({3, 2}, dtype), on.matrix(dtype),
                                    {on.filled({3, 4}, dtype), {}}, HiddenActivation::relu, true);
       }},
      {"conv2d", [=](DType dtype) { conv2d(on.image(dtype), weight(dtype)); }},
      {"conv2d_backward_input",
       [=](DType dtype) {
         conv2d_backward_input(convolved(dtype), weight(dtype), on.image(dtype).shape());
       }},
      {"conv2d_backward_weight",
       [=](DType dtype) {
         conv2d_backward_weight(convolved(dtype), on.image(dtype), weight(dtype).shape());
       }},
      {"max_pool2d", [=](DType dtype) { max_pool2d(on.image(dtype)); }},
      {"max_pool2d_backward",
       [=](DType dtype) {
         max_pool2d_backward(pooled(dtype), on.ids(pooled(dtype).shape()), on.image(dtype).shape());
       }},
      {"avg_pool2d", [=](DType dtype) { avg_pool2d(on.image(dtype)); }},
      {"avg_pool2d_backward",
       [=](DType dtype) { avg_pool2d_backward(pooled(dtype), on.image(dtype).shape()); }},
      {"batch_norm_train", [=](DType dtype) { batch_norm_train(on.image(dtype), {}, {}); }},
      {"batch_norm_eval",
       [=](DType dtype) {
         batch_norm_eval(on.image(dtype), {}, {}, {channels(dtype), channels(dtype)});
       }},
      {"batch_norm_backward",
       [=](DType dtype) {
         batch_norm_backward(on.image(dtype), on.image(dtype), {}, channels(dtype),
                             channels(dtype));
       }},
  });
}

/// Callers of all ops of tensor/ on a device.
inline OpCallers tensor_op_callers(Device device) {
  OpCallers callers;
  const OpOperands on(device);
  add_elementwise_callers(callers, on);
  add_lines_callers(callers, on);
  add_products_callers(callers, on);
  return callers;
}

}  // namespace weft::test
