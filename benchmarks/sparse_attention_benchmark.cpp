// Times the primitives of sparse attention beside those that they accompany.
//
//   weft_sparse_attention_benchmark [--dtype f32] [--filter select,transpose] [--repeats 7]
//
// One JSON object a row on stdout. Selection reads the scores of compressed attention once more and
// needs no values: `ratio` is its time over that of the forward.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <iostream>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "weft/attention/kernels/block_selection.h"
#include "weft/attention/kernels/flash_attention.h"
#include "weft/attention/selection_operations.h"
#include "weft/tensor/parallel.h"

#include "answer_version.h"
#include "random_operand.h"

namespace {

using namespace weft;
using attention::BlockSelectionOptions;
using attention::FlashAttentionOptions;
using bench::random_operand;

template <class Body>
double seconds_of(int inner, Body&& body) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  for (int i = 0; i < inner; ++i) body();
  return std::chrono::duration<double>(Clock::now() - start).count() / inner;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

struct SelectionCase {
  const char* name;
  int64_t queries, tokens, heads, groups, dim;
  BlockSelectionOptions options;
};

const SelectionCase kSelectionCases[] = {
    {"select-8k", 8192, 8192, 8, 2, 64, {}},
    {"select-8k-overlap", 8192, 8192, 8, 2, 64, {32, 16, 64, 16, 1, 2}},
    {"select-8k-runs", 8192, 8192, 8, 2, 64, {.query_tile = 4}},
    {"select-32k-runs", 32768, 32768, 8, 2, 64, {.query_tile = 4}},
    {"select-8k-mha", 8192, 8192, 8, 8, 64, {}},
    {"select-8k-mqa", 8192, 8192, 16, 1, 64, {}},
    {"select-8k-many", 8192, 8192, 8, 2, 64, {.count = 64}},
    {"select-2k", 2048, 2048, 8, 2, 64, {}},
    {"select-decode-8k", 1, 8192, 8, 2, 64, {}},
    {"select-decode-64k", 1, 65536, 8, 2, 64, {}},
    {"select-prefill", 64, 8192, 8, 2, 64, {}},
};

/// select_blocks() beside the compressed attention that gives it lse, timed in turns, and the
/// transposition of its lists.
void report_selection(const SelectionCase& c, DType dtype, int repeats) {
  const BlockSelectionOptions& o = c.options;
  const int64_t compressed = (c.tokens - o.compression_block) / o.compression_stride + 1;
  const int64_t position = c.tokens - c.queries;
  const Tensor q = random_operand({1, c.queries, c.heads, c.dim}, dtype, 1);
  const Tensor k = random_operand({1, compressed, c.groups, c.dim}, dtype, 2);
  const Tensor v = random_operand(k.shape(), dtype, 3);
  const FlashAttentionOptions options{
      .position = position, .key_length = o.compression_block, .key_stride = o.compression_stride};
  attention::FlashAttentionOutput out = attention::flash_attention_forward(q, k, v, options);
  const auto select = [&] {
    return attention::select_blocks(q, k, out.lse, position, c.tokens, o);
  };
  const attention::Selection selection = select();
  const int inner = static_cast<int>(std::clamp<int64_t>(2048 / c.queries, 1, 200));
  std::vector<double> forward, chosen, transposition;
  for (int i = 0; i < repeats; ++i) {
    forward.push_back(
        seconds_of(inner, [&] { attention::flash_attention_forward(q, k, v, options); }));
    chosen.push_back(seconds_of(inner, select));
    transposition.push_back(seconds_of(inner, [&] { attention::transposed(selection); }));
  }
  std::cout << fmt::format(
                   "{{\"case\": \"{}\", \"dtype\": \"{}\", \"threads\": {}, \"shape\": \"T{} S{} "
                   "Nc{} H{} G{} D{} l{} d{} l'{} n{} r{}\", \"forward_ms\": {:.4f}, "
                   "\"select_ms\": {:.4f}, \"ratio\": {:.3f}, \"transposed_ms\": {:.4f}}}",
                   c.name, to_string(dtype), num_threads(), c.queries, c.tokens, compressed,
                   c.heads, c.groups, c.dim, o.compression_block, o.compression_stride, o.key_block,
                   o.count, o.query_tile, median(forward) * 1e3, median(chosen) * 1e3,
                   median(chosen) / median(forward), median(transposition) * 1e3)
            << std::endl;
}

}  // namespace

int main(int argc, char** argv) {
  if (weft::bench::answer_version(argc, argv)) return 0;
  DType dtype = DType::f32;
  std::string filter;
  int repeats = 7;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string flag = argv[i];
    if (flag == "--dtype") dtype = parse_dtype(argv[i + 1]);
    if (flag == "--filter") filter = std::string(",") + argv[i + 1] + ",";
    if (flag == "--repeats") repeats = std::max(1, std::atoi(argv[i + 1]));
  }
  for (const SelectionCase& c : kSelectionCases) {
    if (filter.empty() || filter.find(fmt::format(",{},", c.name)) != std::string::npos)
      report_selection(c, dtype, repeats);
  }
  return 0;
}
