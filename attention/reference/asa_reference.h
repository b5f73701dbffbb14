#pragma once

#include "weft/attention/block_compressor.h"
#include "weft/attention/selection.h"

#include "reference/latent_reference.h"

namespace weft::attention::reference {

/// Sizes of the global layer of alternating sparse attention, see weft/attention/asa_global.h.
struct AsaGlobalLayer {
  LatentLayer latent;
  int64_t block = 1, stride = 1;
  CompressorKind compressor = CompressorKind::mean;
  bool compressed = true, selected = true;  ///< branches of the output
};

/// Its definition with explicit keys and values of every head and its gradients by the chain rule.
/// Tokens of `selection` are read as it says; it is not used without the selected branch.
/// Parameters that get no gradient have none in the result.
LayerResult asa_global_layer(const AsaGlobalLayer& layer, const Parameters& parameters,
                             const Tensor& x, const Tensor& dy, const Selection* selection);

/// Queries [B, T, H, Dc + Dr] and compressed keys [B, Nc, G, Dc + Dr] that choose the blocks: q_th
/// = [Wuk_h^T qC; R_t qR], k_ig = [c_ig; R_{i d} kR_i].
struct AsaSelectionInputs {
  Tensor q, k;
};
AsaSelectionInputs asa_selection_inputs(const AsaGlobalLayer& layer, const Parameters& parameters,
                                        const Tensor& x);

}  // namespace weft::attention::reference
