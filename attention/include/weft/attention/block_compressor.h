#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "weft/attention/kernels/block_pool.h"
#include "weft/nn/linear.h"

namespace weft::attention {

using autograd::Variable;

/// How the rows of a block become one.
enum class CompressorKind {
  mean,      ///< their mean; no parameters
  weighted,  ///< sum over m of a_m (x_m + p_m)
  linear,    ///< W z, z = the rows x_m + p_m side by side
  mlp,       ///< W2 silu(W1 z + b1) + b2
};

/// "mean", "weighted", "linear", "mlp", in the order of the enumeration.
const std::vector<std::string>& compressor_kinds();
/// Throws ConfigError with the known names.
CompressorKind parse_compressor_kind(std::string_view name);
std::string_view name_of(CompressorKind kind);

struct BlockCompressorOptions {
  CompressorKind kind = CompressorKind::mean;
  BlockShape blocks{};
  int64_t heads = 1;
  int64_t dim = 64;
  bool weights_per_head = false;  ///< else all heads share a, W, W1, W2; positions never are
  bool positions = true;          ///< adds p_m; has no effect on mean
  int64_t hidden = 0;             ///< width of the mlp; 0 means 2 dim
  bool residual = false;          ///< adds the mean to the mlp, whose W2 then starts at 0
  double init_std = 0.02;         ///< of W, W1, W2 and p; a starts at 1 / l
};

/// Makes one row of every complete block of rows: x [B, T, H, D] -> [B, Nc(T), H, D], Nc maybe 0.
/// Rows are those of a key, a value or a latent vector; heads never mix.
///
/// Parameters, with R = H where weights_per_head, else 1: `positions` [H, l, D]; weighted:
/// `weights` [R, l]; linear: `proj.weight` [R D, l D]; mlp: `up.weight` [R M, l D], `up.bias`,
/// `down.weight` [R D, M], `down.bias`, the heads of the first axis one behind the other.
/// Source: Yuan et al., "Native Sparse Attention" (arXiv 2502.11089), equation 7, which leaves the
/// form open.
class BlockCompressor final : public nn::Layer {
 public:
  /// Throws ConfigError with value and rule.
  BlockCompressor(const BlockCompressorOptions& options, Generator& generator);

  Variable forward(const Variable& x) override;
  std::string describe() const override;

  const BlockCompressorOptions& options() const { return options_; }
  const BlockShape& blocks() const { return options_.blocks; }
  /// Floating-point operations for one block of all heads.
  double block_flops() const;

 private:
  BlockCompressorOptions options_;
  Variable positions_, weights_;  // undefined where the kind has none
  nn::Linear* proj_ = nullptr;
  nn::Linear* up_ = nullptr;
  nn::Linear* down_ = nullptr;
};

}  // namespace weft::attention
