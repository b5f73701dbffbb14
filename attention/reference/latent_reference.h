#pragma once

#include "reference/layer_reference.h"
#include "reference/matrix.h"

namespace weft::attention::reference {

/// Sizes of attention over latent vectors, see weft/attention/latent_mixer.h.
struct LatentLayer {
  int64_t heads = 1, groups = 1;
  int64_t head_dim = 1, value_dim = 1, latent_dim = 1, rope_dim = 2;
  double rope_theta = 10000, norm_eps = 1e-6;
  int64_t window = 0;    ///< 0 means all earlier tokens
  int64_t position = 0;  ///< of the first token

  double scale() const;
};

/// The definition of latent attention, multi-head (one group) or grouped, with explicit keys and
/// values of every head, and its gradients by the chain rule. Norms and the queries' latent are
/// there when `parameters` hold them.
LayerResult latent_layer(const LatentLayer& layer, const Parameters& parameters, const Tensor& x,
                         const Tensor& dy);

// Its pieces, for layers that read keys otherwise. Rows are those of all sequences.

/// What is computed of x [B T, E].
struct LatentRows {
  Matrix x, query_latent_raw, query_latent;  ///< the latter two only where the layer has them
  Matrix q;                                  ///< [B T, H (Dn + Dr)], turned
  Matrix latents_raw, latents;               ///< [B T, G Dc], before and after the norm
  Matrix rope_keys_raw, rope_keys;           ///< [B T, Dr], before and after turning
};
LatentRows latent_rows(const LatentLayer& layer, const Parameters& parameters, const Tensor& x);

/// dx from the gradients of q, latents, turned and (without those through the turned) unturned
/// rotary keys; adds those of the parameters to `gradients`.
Matrix latent_rows_backward(const LatentLayer& layer, const Parameters& parameters,
                            const LatentRows& rows, int64_t length, const Matrix& dq,
                            const Matrix& dlatents, const Matrix& drope_keys,
                            const Matrix& drope_keys_raw, Parameters& gradients);

/// Keys [B S, H (Dn + Dr)] and values [B S, H Dv] of latents and turned rotary keys.
struct HeadKeys {
  Matrix k, v;
};
HeadKeys expand_latents(const LatentLayer& layer, const Parameters& parameters,
                        const Matrix& latents, const Matrix& rope_keys);

struct LatentGradients {
  Matrix latents, rope_keys;
};
LatentGradients expand_latents_backward(const LatentLayer& layer, const Parameters& parameters,
                                        const Matrix& latents, const HeadKeys& dkeys,
                                        Parameters& gradients);

}  // namespace weft::attention::reference
