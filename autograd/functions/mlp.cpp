#include "weft/autograd/functions/mlp.h"

#include <utility>

#include "weft/autograd/node.h"
#include "weft/tensor/ops/linear.h"

namespace weft::autograd {
namespace {

bool wants(const Variable& variable) {
  return variable.defined() && variable.requires_grad();
}

Tensor data_of(const Variable& variable) {
  return variable.defined() ? variable.data() : Tensor();
}

/// What backward keeps, and which gradients it makes.
struct SavedMlp {
  HiddenActivation activation;
  SavedTensor x;  // as far as gradients of up need it
  SavedTensor up, down;
  SavedTensor hidden, before;  // HiddenFeatures
  DType up_dtype, down_dtype, up_bias_dtype, down_bias_dtype;
  bool want_x, want_up, want_up_bias, want_down, want_down_bias;

  bool want_hidden() const { return want_x || want_up || want_up_bias; }
};

/// Gradients of the weight and bias of a linear layer, as far as they are wanted.
LinearParameterGrads parameter_grads(const Tensor& dy, const SavedTensor& x, bool want_weight,
                                     DType weight_dtype, bool want_bias, DType bias_dtype) {
  if (want_weight && want_bias && weight_dtype == bias_dtype)
    return linear_backward_parameters(dy, x.get(), weight_dtype);
  return {want_weight ? linear_backward_weight(dy, x.get(), weight_dtype) : Tensor(),
          want_bias ? linear_backward_bias(dy, bias_dtype) : Tensor()};
}

std::vector<Tensor> backward_of(const SavedMlp& saved, const Tensor& dy) {
  LinearParameterGrads down = parameter_grads(dy, saved.hidden, saved.want_down, saved.down_dtype,
                                              saved.want_down_bias, saved.down_bias_dtype);
  if (!saved.want_hidden())
    return {Tensor(), Tensor(), Tensor(), std::move(down.dweight), std::move(down.dbias)};
  // Sums in dy's type ride on the product that makes what is summed; sums for f32 beside half
  // types come out of the product for the weight, which keeps them in f32.
  const bool sums_at_once = saved.want_up_bias && saved.up_bias_dtype == dy.dtype();
  const HiddenFeatures hidden{saved.hidden.get(),
                              saved.before.defined() ? saved.before.get() : Tensor()};
  const HiddenGrads grads =
      linear_activation_backward(dy, saved.down.get(), hidden, saved.activation, sums_at_once);
  LinearParameterGrads up =
      parameter_grads(grads.dsums, saved.x, saved.want_up, saved.up_dtype,
                      saved.want_up_bias && !sums_at_once, saved.up_bias_dtype);
  Tensor dx = saved.want_x ? linear_backward_input(grads.dsums, saved.up.get()) : Tensor();
  return {std::move(dx), std::move(up.dweight), sums_at_once ? grads.dbias : std::move(up.dbias),
          std::move(down.dweight), std::move(down.dbias)};
}

}  // namespace

Variable mlp(const Variable& x, const MlpParameters& parameters, HiddenActivation activation) {
  const auto& [up, up_bias, down, down_bias] = parameters;
  const bool recorded = must_record({x, up, up_bias, down, down_bias});
  const bool want_hidden = recorded && (wants(x) || wants(up) || wants(up_bias));
  const HiddenFeatures hidden =
      linear_activation(x.data(), up.data(), data_of(up_bias), activation, want_hidden);
  Tensor y = weft::linear(hidden.y, down.data(), data_of(down_bias));
  if (!recorded) return Variable(std::move(y));
  SavedMlp saved{
      .activation = activation,
      .x = wants(up) ? SavedTensor(x) : SavedTensor(),
      .up = wants(x) ? SavedTensor(up.data()) : SavedTensor(),
      .down = want_hidden ? SavedTensor(down.data()) : SavedTensor(),
      .hidden = SavedTensor(hidden.y),
      .before = SavedTensor(hidden.saved),
      .up_dtype = up.dtype(),
      .down_dtype = down.dtype(),
      .up_bias_dtype = up_bias.defined() ? up_bias.dtype() : DType::f32,
      .down_bias_dtype = down_bias.defined() ? down_bias.dtype() : DType::f32,
      .want_x = wants(x),
      .want_up = wants(up),
      .want_up_bias = wants(up_bias),
      .want_down = wants(down),
      .want_down_bias = wants(down_bias),
  };
  return record("mlp", std::move(y), {x, up, up_bias, down, down_bias},
                [saved = std::move(saved)](const Tensor& dy) { return backward_of(saved, dy); });
}

}  // namespace weft::autograd
