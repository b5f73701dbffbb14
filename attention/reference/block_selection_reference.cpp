#include "reference/block_selection_reference.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>
#include <vector>

namespace weft::attention::reference {
namespace {

/// The attention of one query row to the first `seen` compressed keys.
std::vector<double> probabilities(const double* q, const std::vector<const double*>& k,
                                  int64_t seen, int64_t dim, double scale) {
  std::vector<double> p(k.size());
  double largest = -std::numeric_limits<double>::infinity();
  for (int64_t i = 0; i < seen; ++i) {
    for (int64_t e = 0; e < dim; ++e) p[i] += scale * q[e] * k[i][e];
    largest = std::max(largest, p[i]);
  }
  double sum = 0;
  for (int64_t i = 0; i < seen; ++i) {
    p[i] = std::exp(p[i] - largest);
    sum += p[i];
  }
  for (int64_t i = 0; i < seen; ++i) p[i] /= sum;
  return p;
}

struct Choice {
  std::vector<int32_t> blocks;
  double gap;
};

/// The blocks of a query whose own block is `own`.
Choice choose(const double* importance, int64_t own, const BlockSelectionOptions& options) {
  Choice choice{{}, std::numeric_limits<double>::infinity()};
  std::vector<int32_t> rest;
  for (int32_t j = 0; j <= own; ++j) {
    const bool forced = j < options.initial || j > own - options.local;
    (forced ? choice.blocks : rest).push_back(j);
  }
  std::stable_sort(rest.begin(), rest.end(),
                   [&](int32_t a, int32_t b) { return importance[a] > importance[b]; });
  const auto taken =
      std::min(static_cast<size_t>(options.count) - choice.blocks.size(), rest.size());
  if (taken > 0 && taken < rest.size())
    choice.gap = importance[rest[taken - 1]] - importance[rest[taken]];
  choice.blocks.insert(choice.blocks.end(), rest.begin(),
                       rest.begin() + static_cast<int64_t>(taken));
  std::sort(choice.blocks.begin(), choice.blocks.end());
  return choice;
}

}  // namespace

BlockSelectionOutput select_blocks(const Tensor& q, const Tensor& k, int64_t position, int64_t keys,
                                   const BlockSelectionOptions& options,
                                   const Selection* inherited) {
  const SelectionShape shape{.batch = q.size(0),
                             .groups = k.size(2),
                             .queries = q.size(1),
                             .keys = keys,
                             .position = position,
                             .query_tile = options.query_tile,
                             .key_block = options.key_block};
  const int64_t heads = q.size(2), dim = q.size(3), compressed = k.size(1);
  const int64_t d = options.compression_stride;
  const double scale = options.scale.value_or(1 / std::sqrt(static_cast<double>(dim)));
  const std::vector<double> q_values = q.to_vector<double>(), k_values = k.to_vector<double>();
  std::vector<double> importance(static_cast<size_t>(shape.lists() * shape.blocks()));
  std::vector<double> gaps;
  std::vector<std::vector<int32_t>> lists;
  for (int64_t b = 0; b < shape.batch; ++b) {
    for (int64_t g = 0; g < shape.groups; ++g) {
      std::vector<const double*> rows;
      for (int64_t i = 0; i < compressed; ++i)
        rows.push_back(k_values.data() + ((b * compressed + i) * shape.groups + g) * dim);
      for (int64_t tile = 0; tile < shape.tiles(); ++tile) {
        const int64_t leader = (position / options.query_tile + tile) * options.query_tile;
        if (leader < position) {
          const auto list = inherited->list(b, g, inherited->shape().tiles() - 1);
          lists.emplace_back(list.begin(), list.end());
          gaps.push_back(std::numeric_limits<double>::infinity());
          continue;
        }
        double* const sums =
            importance.data() + static_cast<int64_t>(lists.size()) * shape.blocks();
        const int64_t own = leader / options.key_block;
        int64_t seen = 0;
        while (seen < compressed && seen * d + options.compression_block - 1 <= leader) ++seen;
        for (int64_t h = g * (heads / shape.groups); h < (g + 1) * (heads / shape.groups); ++h) {
          const double* const row =
              q_values.data() + ((b * shape.queries + leader - position) * heads + h) * dim;
          const std::vector<double> p = probabilities(row, rows, seen, dim, scale);
          for (int64_t j = 0; j <= own; ++j) {
            for (int64_t m = 0; m < options.key_block / d; ++m) {
              for (int64_t n = 0; n < options.compression_block / d; ++n) {
                const int64_t i = options.key_block / d * j + m - n;
                if (i >= 0 && i < compressed) sums[j] += p[i];
              }
            }
          }
        }
        Choice choice = choose(sums, own, options);
        lists.push_back(std::move(choice.blocks));
        gaps.push_back(choice.gap);
      }
    }
  }
  return {Selection::from_lists(shape, lists),
          from_vector(importance, {shape.batch, shape.groups, shape.tiles(), shape.blocks()}),
          from_vector(gaps, {shape.batch, shape.groups, shape.tiles()})};
}

}  // namespace weft::attention::reference
