#pragma once

#include <algorithm>
#include <memory>

#include "weft/attention/asa_global.h"

#include "layer_test.h"
#include "reference/asa_reference.h"
#include "reference/block_selection_reference.h"
#include "selection_test_data.h"

namespace weft::attention::testing {

/// The small shape in which every rule of blocks, lists and runs shows within 64 tokens.
inline AsaGlobalOptions small_asa() {
  return {.latent = {.d_model = 20,
                     .n_heads = 4,
                     .groups = 2,
                     .head_dim = 6,
                     .value_dim = 5,
                     .latent_dim = 7,
                     .rope_dim = 4,
                     .init_std = 0.25},
          .block = 4,
          .stride = 2,
          .select_block = 8,
          .select_count = 3,
          .initial = 1,
          .local = 1,
          .query_run = 4};
}

/// Any options that fit together.
inline AsaGlobalOptions random_asa(Draw& draw) {
  const int64_t stride = draw(1, 3), block = stride * draw(1, 3);
  const int64_t run = int64_t{1} << draw(0, 2);
  int64_t select_block = stride * run;
  while (select_block < block) select_block *= 2;
  const int64_t groups = draw(1, 3), initial = draw(0, 2), local = draw(1, 2);
  return {.latent = {.d_model = draw(1, 8),
                     .n_heads = groups * draw(1, 2),
                     .groups = groups,
                     .head_dim = draw(1, 5),
                     .value_dim = draw(1, 5),
                     .latent_dim = draw(1, 6),
                     .rope_dim = 2 * draw(1, 2),
                     .query_latent_dim = draw(0, 1) * draw(1, 5),
                     .form = static_cast<LatentForm>(draw(0, 2)),
                     .rotary_part = !draw.one_in(8),
                     .normalize = !draw.one_in(8),
                     .rope_theta = draw.one_in(8) ? 0.0 : 10000.0,
                     .norm_eps = 1e-3,
                     .init_std = 0.4},
          .block = block,
          .stride = stride,
          .select_block = select_block,
          .select_count = initial + local + draw(0, 3),
          .initial = initial,
          .local = local,
          .query_run = run,
          .compressor = static_cast<CompressorKind>(draw(0, 3)),
          .branches = static_cast<AsaBranches>(draw(0, 5) > 2 ? 0 : draw(0, 2))};
}

inline std::unique_ptr<AsaGlobal> make_asa(const AsaGlobalOptions& options, uint64_t seed = 7) {
  return make_layer<AsaGlobal>(options, seed);
}

inline reference::AsaGlobalLayer definition_of(const AsaGlobal& layer, int64_t position = 0) {
  const LatentOptions& o = layer.options();
  const AsaGlobalOptions& a = layer.asa_options();
  return {.latent = {.heads = o.n_heads,
                     .groups = o.groups,
                     .head_dim = o.head_dim,
                     .value_dim = o.value_dim,
                     .latent_dim = o.latent_dim,
                     .rope_dim = o.rope_dim,
                     .rope_theta = o.rope_theta,
                     .norm_eps = o.norm_eps,
                     .position = position},
          .block = a.block,
          .stride = a.stride,
          .compressor = a.compressor,
          .compressed = a.branches != AsaBranches::selected,
          .selected = a.branches != AsaBranches::compressed};
}

/// With the blocks that the layer itself chooses: they may differ from the oracle's by rounding.
inline LayerOracle oracle_of(AsaGlobal& layer, int64_t position = 0) {
  return [&layer, position](const reference::Parameters& parameters, const Tensor& x,
                            const Tensor& dy) {
    const reference::AsaGlobalLayer definition = definition_of(layer, position);
    if (!definition.selected)
      return reference::asa_global_layer(definition, parameters, x, dy, nullptr);
    const Selection selection = layer.selection(autograd::Variable(x), {.position = position});
    return reference::asa_global_layer(definition, parameters, x, dy, &selection);
  };
}

/// The lists by the definition, with their gaps.
inline reference::BlockSelectionOutput expected_lists(const AsaGlobal& layer, const Tensor& x) {
  const AsaGlobalOptions& a = layer.asa_options();
  const LatentOptions& o = layer.options();
  const auto inputs =
      reference::asa_selection_inputs(definition_of(layer), parameters_of(layer), x);
  return reference::select_blocks(
      inputs.q, inputs.k, 0, x.size(1),
      {.compression_block = a.block,
       .compression_stride = a.stride,
       .key_block = a.select_block,
       .count = a.select_count,
       .initial = a.initial,
       .local = a.local,
       .query_tile = a.query_run,
       .scale = 1 / std::sqrt(static_cast<double>(o.head_dim + o.rope_dim))});
}

/// Gates that let both branches pass whole.
inline void open_gates(AsaGlobal& layer) {
  layer.parameter("gate_proj.weight").mutable_data().fill_(0);
  layer.parameter("gate_proj.bias").mutable_data().fill_(100);
}

}  // namespace weft::attention::testing
