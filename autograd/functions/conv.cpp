#include "weft/autograd/functions/conv.h"

#include "weft/autograd/node.h"

namespace weft::autograd {
namespace {

/// Records a convolution of either rank; `backward_input` and `backward_weight` are its gradients.
template <class Options, class BackwardInput, class BackwardWeight>
Variable record_conv(std::string_view name, Tensor y, const Variable& x, const Variable& weight,
                     const Variable& bias, const Options& options, BackwardInput backward_input,
                     BackwardWeight backward_weight) {
  const bool want_dx = x.requires_grad(), want_dweight = weight.requires_grad();
  const bool want_dbias = bias.defined() && bias.requires_grad();
  return record(name, std::move(y), {x, weight, bias},
                [saved_x = want_dweight ? SavedTensor(x.data()) : SavedTensor(),
                 saved_weight = want_dx ? SavedTensor(weight.data()) : SavedTensor(),
                 x_shape = x.shape(), weight_shape = weight.shape(), weight_dtype = weight.dtype(),
                 bias_dtype = bias.defined() ? bias.dtype() : DType::f32, want_dbias, options,
                 backward_input, backward_weight](const Tensor& dy) -> std::vector<Tensor> {
                  Tensor dx, dweight, dbias;
                  if (saved_weight.defined())
                    dx = backward_input(dy, saved_weight.get(), x_shape, options);
                  if (saved_x.defined())
                    dweight =
                        backward_weight(dy, saved_x.get(), weight_shape, options, weight_dtype);
                  if (want_dbias) dbias = conv_backward_bias(dy, bias_dtype);
                  return {dx, dweight, dbias};
                });
}

Tensor data_or_none(const Variable& variable) {
  return variable.defined() ? variable.data() : Tensor();
}

}  // namespace

Variable conv2d(const Variable& x, const Variable& weight, const Variable& bias,
                const Conv2dOptions& options) {
  Tensor y = weft::conv2d(x.data(), weight.data(), data_or_none(bias), options);
  return record_conv("conv2d", std::move(y), x, weight, bias, options, conv2d_backward_input,
                     conv2d_backward_weight);
}

Variable conv1d(const Variable& x, const Variable& weight, const Variable& bias,
                const Conv1dOptions& options) {
  Tensor y = weft::conv1d(x.data(), weight.data(), data_or_none(bias), options);
  return record_conv("conv1d", std::move(y), x, weight, bias, options, conv1d_backward_input,
                     conv1d_backward_weight);
}

}  // namespace weft::autograd
