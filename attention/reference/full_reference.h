#pragma once

#include "reference/layer_reference.h"

namespace weft::attention::reference {

struct FullLayer {
  int64_t heads = 1, kv_heads = 1, head_dim = 1;
  double rope_theta = 10000;
  int64_t window = 0;    ///< 0 means all earlier tokens
  int64_t position = 0;  ///< of the first token
};

/// The definition of full and sliding-window attention: for x [B, T, E] and dy [B, T, E]
///   q = R_t(x Wq^T), k = R_s(x Wk^T), v = x Wv^T, o = softmax(q k^T / sqrt(D)) v, y = o Wo^T,
/// with the gradients of all of it by the chain rule.
LayerResult full_layer(const FullLayer& layer, const Parameters& parameters, const Tensor& x,
                       const Tensor& dy);

}  // namespace weft::attention::reference
