#pragma once

#include <array>
#include <optional>

#include "weft/attention/nsa.h"
#include "weft/attention/selection.h"

#include "reference/layer_reference.h"

namespace weft::attention::reference {

struct NsaResult : LayerResult {
  std::array<Tensor, 3> branches;      ///< [B, T, H, Dv]; undefined where off
  std::optional<Selection> selection;  ///< by the definition, also where another was read
  double gap = 0;                      ///< least of all its lists, see BlockSelectionOutput
};

/// What is given from outside instead of computed.
struct NsaOverrides {
  const Selection* selection = nullptr;
  std::optional<std::array<double, 3>> gates{};
};

/// The definition of native sparse attention and its gradients as plain loops in double precision:
/// whole rows of probabilities under explicit masks, lists by sorting, the chain rule over all of
/// it. `options` have no 0 that stands for something else; `position` is the rotary position of the
/// first token. Parameters that get no gradient have none in the result.
NsaResult nsa_layer(const NsaOptions& options, const Parameters& parameters, const Tensor& x,
                    const Tensor& dy, int64_t position = 0, const NsaOverrides& overrides = {});

}  // namespace weft::attention::reference
