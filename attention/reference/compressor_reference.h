#pragma once

#include <string>

#include "weft/attention/block_compressor.h"

#include "reference/layer_reference.h"
#include "reference/matrix.h"

namespace weft::attention::reference {

/// The definition of BlockCompressor as plain loops over whole blocks, and its gradients. Its
/// parameters are those of `parameters` whose names begin with `prefix`; the products of linear and
/// mlp are shared by all heads.
class Compressor {
 public:
  Compressor(const BlockCompressorOptions& options, const Parameters& parameters,
             std::string prefix, int64_t batch);

  /// Rows x [B T, H D] to [B Nc, H D]; keeps what backward() needs.
  Matrix forward(const Matrix& x);
  /// dx [B T, H D] of dout [B Nc, H D]; sets the parameters' gradients.
  Matrix backward(const Matrix& dout, Parameters& gradients) const;

  /// Blocks of a sequence that forward() made.
  int64_t blocks() const { return blocks_; }

 private:
  bool has(const char* name) const;
  Matrix get(const char* name) const;
  double weight(const Matrix& weights, int64_t head, int64_t m) const;
  bool pools() const;
  template <class Body>
  void for_each_element(const Body& body) const;

  BlockCompressorOptions options_;
  const Parameters& parameters_;
  std::string prefix_;
  int64_t batch_, tokens_ = 0, blocks_ = 0;
  Matrix z_, u_, a_;  // rows of (b, i, head): the block; mlp before and after SiLU
};

/// 1 / (1 + e^-x), its SiLU x s(x), and the gradient of u, given that of silu(u).
double sigmoid(double x);
Matrix silu(Matrix u);
Matrix silu_backward(Matrix gradient, const Matrix& u);

}  // namespace weft::attention::reference
