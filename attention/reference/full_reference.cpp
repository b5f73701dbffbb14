#include "reference/full_reference.h"

#include "reference/attention_reference.h"
#include "reference/matrix.h"

namespace weft::attention::reference {

LayerResult full_layer(const FullLayer& layer, const Parameters& parameters, const Tensor& x,
                       const Tensor& dy) {
  const auto weight = [&](const char* name) { return Matrix(parameters.at(name)); };
  const Matrix wq = weight("q_proj.weight"), wk = weight("k_proj.weight"),
               wv = weight("v_proj.weight"), wo = weight("o_proj.weight");
  const int64_t batch = x.size(0), length = x.size(1), d = layer.head_dim;
  const auto turn = [&](const Matrix& rows, bool inverse) {
    return layer.rope_theta == 0
               ? rows
               : rotate(rows, length, d, layer.rope_theta, layer.position, inverse);
  };

  const Matrix input(x), dout(dy);
  const Tensor q = heads(turn(times_transposed(input, wq), false), batch, layer.heads);
  const Tensor k = heads(turn(times_transposed(input, wk), false), batch, layer.kv_heads);
  const Tensor v = heads(times_transposed(input, wv), batch, layer.kv_heads);
  const FlashAttentionOptions options{.window = layer.window};
  const Matrix o = merged(attention_forward(q, k, v, options).o);

  const FlashAttentionGradients grads =
      attention_backward(heads(times(dout, wo), batch, layer.heads), q, k, v, options);
  const Matrix dq = turn(merged(grads.dq), true), dk = turn(merged(grads.dk), true),
               dv = merged(grads.dv);
  const Matrix dx = times(dq, wq) + times(dk, wk) + times(dv, wv);
  const auto gradient = [](const Matrix& dproduct, const Matrix& in) {
    return transposed_times(dproduct, in).tensor({dproduct.columns, in.columns});
  };
  return {times_transposed(o, wo).tensor(x.shape()),
          dx.tensor(x.shape()),
          {{"q_proj.weight", gradient(dq, input)},
           {"k_proj.weight", gradient(dk, input)},
           {"v_proj.weight", gradient(dv, input)},
           {"o_proj.weight", gradient(dout, o)}}};
}

}  // namespace weft::attention::reference
