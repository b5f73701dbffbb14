#pragma once

#include "weft/nn/module.h"
#include "weft/tensor/ops/pool.h"

namespace weft::nn {

// Pooling layers: no parameters. Sizes after pooling are
// floor((size + 2 padding - kernel) / stride) + 1. Constructors throw ConfigError on a kernel below
// 1, a negative stride (0 means the kernel) and padding outside 0 to half the kernel.

/// Largest element of each window of x [N, C, H, W] -> [N, C, H', W'].
class MaxPool2d final : public Layer {
 public:
  explicit MaxPool2d(const Pool2dOptions& options = {});

  Variable forward(const Variable& x) override;
  std::string describe() const override;

 private:
  Pool2dOptions options_;
};

/// Mean of each window of x [N, C, H, W] -> [N, C, H', W'].
class AvgPool2d final : public Layer {
 public:
  explicit AvgPool2d(const Pool2dOptions& options = {});

  Variable forward(const Variable& x) override;
  std::string describe() const override;

 private:
  Pool2dOptions options_;
};

/// Largest element of each window of x [N, C, L] -> [N, C, L'].
class MaxPool1d final : public Layer {
 public:
  explicit MaxPool1d(const Pool1dOptions& options = {});

  Variable forward(const Variable& x) override;
  std::string describe() const override;

 private:
  Pool1dOptions options_;
};

/// Mean of each window of x [N, C, L] -> [N, C, L'].
class AvgPool1d final : public Layer {
 public:
  explicit AvgPool1d(const Pool1dOptions& options = {});

  Variable forward(const Variable& x) override;
  std::string describe() const override;

 private:
  Pool1dOptions options_;
};

}  // namespace weft::nn
