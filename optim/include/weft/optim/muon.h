#pragma once

#include <optional>

#include "weft/optim/adamw.h"
#include "weft/optim/optimizer.h"

namespace weft::optim {

/// Factor of the rate for a matrix of shape [rows, columns].
enum class MuonScale {
  /// 0.2 sqrt(max(rows, columns)): steps as large as AdamW's, so that both can share a rate and a
  /// decay (Liu et al., "Muon is Scalable for LLM Training", 2025, eq. 4).
  match_adamw,
  /// sqrt(max(1, rows / columns)), as the inventor has it: equal steps in the spectral norm. Rates
  /// are near 0.02, those of the AdamW groups a hundredth of that.
  spectral,
};

struct MuonOptions {
  double momentum = 0.95;
  bool nesterov = true;
  int newton_schulz_steps = 5;
  MuonScale scale = MuonScale::match_adamw;
  double weight_decay = 0.01;  ///< of matrix groups that set none; decoupled
  /// Type of the matrix products of the orthogonalization: bf16, f32 or f64. Unset means bf16 for
  /// f32 parameters where the machine is fast at it (has_fast_bf16_matmul()), which is enough for
  /// the method, and the type of the parameter elsewhere.
  std::optional<DType> product_dtype = {};
  AdamWOptions adamw = {};  ///< for the groups that are no matrices
};

/// Parameters by the rule that is to change them.
struct MuonGroups {
  std::vector<ParameterGroup> matrices = {};  ///< rank 2 only
  std::vector<ParameterGroup> others = {};
};

/// Hidden matrices for Muon, and default_groups() of everything else for AdamW: parameters that are
/// not of rank 2, and those whose name contains "embed", "norm" or "lm_head". `adamw_lr_scale` is
/// the AdamW groups' rate over Muon's.
MuonGroups split_for_muon(const NamedParameters& parameters, double adamw_lr_scale = 1);

/// Momentum orthogonalized by Newton and Schulz (Jordan et al., "Muon: An optimizer for hidden
/// layers in neural networks", 2024): b = momentum b + grad; u = grad + momentum b with Nesterov's
/// momentum, else b; x = u / |u|, then five times x = 3.4445 x + (-4.7750 (x x^T) + 2.0315 (x
/// x^T)^2) x, which brings all singular values near 1; p = (1 - lr weight_decay) p - lr scale x.
/// Matrices of one shape are orthogonalized together. All other parameters take AdamW steps.
class Muon : public Optimizer {
 public:
  /// Throws ConfigError on options outside their range, ShapeError on a parameter of other rank
  /// than 2 among the matrices.
  explicit Muon(MuonGroups groups, MuonOptions options = {});

 private:
  StepNumbers step_numbers(const ParameterState& state, double lr) const override;
  void update(std::span<const Update> updates, const StepInputs& inputs) override;
  void update_matrices(std::vector<const Update*> updates, const StepInputs& inputs);
  bool is_matrix(const ParameterState& state) const { return state.group < num_matrix_groups_; }

  MuonOptions options_;
  size_t num_matrix_groups_ = 0;
};

}  // namespace weft::optim
