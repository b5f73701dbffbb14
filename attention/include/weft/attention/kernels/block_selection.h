#pragma once

#include <cstdint>
#include <optional>

#include "weft/attention/selection.h"

namespace weft::attention {

/// How blocks of keys are chosen from the scores of compressed keys. Compressed key i stands for
/// the tokens [i compression_stride, i compression_stride + compression_block).
struct BlockSelectionOptions {
  int64_t compression_block = 16;   ///< l
  int64_t compression_stride = 16;  ///< d, divides l and key_block
  int64_t key_block = 16;           ///< l', at least l
  int64_t count = 16;               ///< n: blocks of a list, the forced ones included
  int64_t initial = 1;              ///< forced: the first blocks of the sequence
  int64_t local = 2;                ///< forced: the query's own block and those before it, >= 1
  int64_t query_tile = 1;         ///< r, divides l': a run of r queries uses the list of its first
  std::optional<double> scale{};  ///< of the scores; 1 / sqrt(D) unless set
};

/// Throws ConfigError naming the option, its value and the rule.
void validate(const BlockSelectionOptions& options);

/// The `count` blocks with the most attention mass, for every group of query heads that share a
/// compressed key head. q [B, T, H, D] at positions position, position + 1, ... (turned as the keys
/// are), compressed keys k [B, Nc, G, D], lse [B, H, T] of compressed attention over them, `keys`
/// tokens so far, at least position + T. A block's importance is
///   I(t, g, j) = sum over heads h of g and compressed keys i seen by t of
///                w(i, j) exp(scale <q_th, k_ig> - lse_th),
/// with w(i, j) the number of strides that key i and block j share; a row with lse = +inf has none.
/// Taken are the forced blocks and then the most important of those up to the query's own, of equal
/// ones the lower, until there are `count` or no more. Where the first run began before `position`,
/// its lists are the last ones of `inherited`, the selection of the call before.
///
/// q and k f64, f32, bf16 or f16 of one type and any strides; lse f64 for f64, else f32. The same
/// rows and lse give a query the same list for any number of threads and however a sequence is cut
/// into calls. Nothing of size T x Nc is stored. Carries no gradient. Throws ShapeError,
/// DTypeError, DeviceError, ConfigError.
/// Source: arXiv 2502.11089, equations 9 to 12; runs: arXiv 2511.00819, figure 2.
Selection select_blocks(const Tensor& q, const Tensor& k, const Tensor& lse, int64_t position,
                        int64_t keys, const BlockSelectionOptions& options,
                        const Selection* inherited = nullptr);

}  // namespace weft::attention
