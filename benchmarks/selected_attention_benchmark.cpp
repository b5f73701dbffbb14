// Times attention over listed key blocks against full attention of the same heads, per visible
// pair, and decoding steps against the memory that they must read.
//
//   weft_selected_attention_benchmark [--dtype f32] [--filter nsa,asa] [--repeats 7] [--clock wall]
//
// One JSON object a row on stdout. FLOPs count visible (query, key) pairs alone: forward
// 2 H (D + Dv) P, backward 2 H (3 D + 2 Dv) P. Full attention ("flash") is timed between the calls
// of each case. The lists hold the first block, the query's own and the one before it, and random
// earlier ones: neighbouring queries share as little as they can, and most of what they read comes
// from the last-level cache. In the cases named "-steady" a list keeps the random blocks of the
// list before it but for one. Times are the best of the repeats. With --clock cpu they are
// processor time, summed over the threads and divided by their number: steadier where other
// programs run.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <ctime>
#include <functional>
#include <iostream>
#include <set>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "weft/attention/kernels/flash_attention.h"
#include "weft/attention/kernels/latent_attention.h"
#include "weft/attention/kernels/selected_attention.h"
#include "weft/tensor/generator.h"
#include "weft/tensor/parallel.h"

#include "answer_version.h"
#include "random_operand.h"

namespace {

using namespace weft;
using attention::Selection;
using attention::SelectionShape;
using bench::random_operand;

struct Options {
  DType dtype = DType::f32;
  std::string filter;
  int repeats = 7;
  bool cpu_clock = false;

  bool wants(const char* name) const {
    return filter.empty() || filter.find(fmt::format(",{},", name)) != std::string::npos;
  }
};

struct Case {
  const char* name;
  int64_t tokens, heads, kv_heads, groups, dim, value_dim, query_tile, key_block, count;
  bool steady = false;
};

constexpr Case kCases[] = {
    {"nsa", 8192, 8, 2, 2, 64, 64, 1, 16, 16},
    {"nsa-8", 8192, 8, 2, 2, 64, 64, 1, 16, 8},
    {"nsa-32", 8192, 8, 2, 2, 64, 64, 1, 32, 16},
    {"nsa-64", 8192, 8, 2, 2, 64, 64, 1, 64, 16},
    {"nsa-r4", 8192, 8, 2, 2, 64, 64, 4, 16, 16},
    {"asa", 8192, 8, 8, 2, 96, 64, 4, 16, 16},
    {"asa-absorbed", 8192, 8, 2, 2, 160, 128, 4, 16, 16},
    {"nsa-steady", 8192, 8, 2, 2, 64, 64, 1, 16, 16, true},
    {"asa-steady", 8192, 8, 8, 2, 96, 64, 4, 16, 16, true},
    {"tile-64", 8192, 8, 2, 2, 64, 64, 64, 64, 16},
};

struct DecodeCase {
  const char* name;
  int64_t keys, heads, kv_heads, dim, key_block, count;
};

constexpr DecodeCase kDecodeCases[] = {
    {"decode", 16384, 8, 2, 64, 16, 16},
    {"decode-mha", 4096, 12, 12, 64, 16, 16},
    {"decode-64k", 65536, 8, 2, 64, 64, 16},
};

struct LatentCase {
  const char* name;
  int64_t keys, heads, groups, latent_dim, rope_dim, count;
};

constexpr LatentCase kLatentCases[] = {
    {"latent", 16384, 8, 1, 256, 32, 16},
    {"latent-groups", 16384, 8, 2, 128, 32, 16},
};

Selection random_selection(const SelectionShape& shape, int64_t count, bool steady = false) {
  std::vector<std::vector<int32_t>> lists;
  uint64_t draw = 0;
  for (int64_t i = 0; i < shape.batch * shape.groups; ++i) {
    std::vector<int32_t> drawn;
    for (int64_t tile = 0; tile < shape.tiles(); ++tile) {
      const int64_t own = (shape.position + shape.first_query(tile)) / shape.key_block;
      std::set<int32_t> blocks = {0, static_cast<int32_t>(own),
                                  static_cast<int32_t>(std::max<int64_t>(own - 1, 0))};
      if (steady && !drawn.empty()) {
        drawn.erase(drawn.begin());
        for (const int32_t block : drawn) {
          if (static_cast<int64_t>(blocks.size()) < count) blocks.insert(block);
        }
      }
      if (!steady) drawn.clear();
      while (static_cast<int64_t>(blocks.size()) < std::min(count, own + 1)) {
        const auto block =
            static_cast<int32_t>(philox4x32(9, draw++)[0] % static_cast<uint64_t>(own + 1));
        if (blocks.insert(block).second) drawn.push_back(block);
      }
      lists.emplace_back(blocks.begin(), blocks.end());
    }
  }
  return Selection::from_lists(shape, lists);
}

/// (query, key) pairs that one head sees, as a mean over the groups.
double visible_pairs(const Selection& selection) {
  const SelectionShape& shape = selection.shape();
  double sum = 0;
  for (int64_t b = 0; b < shape.batch; ++b) {
    for (int64_t g = 0; g < shape.groups; ++g) {
      for (int64_t t = 0; t < shape.queries; ++t) {
        for (const int32_t block : selection.list(b, g, shape.tile_of(t))) {
          const int64_t first = block * shape.key_block;
          const int64_t last =
              std::min({first + shape.key_block, shape.keys, shape.position + t + 1});
          sum += static_cast<double>(std::max<int64_t>(last - first, 0));
        }
      }
    }
  }
  return sum / static_cast<double>(shape.groups);
}

double now(bool cpu_clock) {
  if (cpu_clock) return static_cast<double>(std::clock()) / CLOCKS_PER_SEC / num_threads();
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// The best time of each body; the bodies take turns, so that they meet the same conditions.
std::vector<double> best_seconds(const Options& options, int inner,
                                 const std::vector<std::function<void()>>& bodies) {
  std::vector<double> best(bodies.size(), 1e30);
  for (int i = 0; i < options.repeats + 1; ++i) {
    for (size_t body = 0; body < bodies.size(); ++body) {
      const double start = now(options.cpu_clock);
      for (int n = 0; n < inner; ++n) bodies[body]();
      const double seconds = (now(options.cpu_clock) - start) / inner;
      if (i > 0) best[body] = std::min(best[body], seconds);  // the first call warms up
    }
  }
  return best;
}

void report(const Case& c, const Options& options) {
  const DType dtype = options.dtype;
  const Tensor q = random_operand({1, c.tokens, c.heads, c.dim}, dtype, 1);
  const Tensor k = random_operand({1, c.tokens, c.kv_heads, c.dim}, dtype, 2);
  const Tensor v = random_operand({1, c.tokens, c.kv_heads, c.value_dim}, dtype, 3);
  const Tensor dout = random_operand({1, c.tokens, c.heads, c.value_dim}, dtype, 4);
  const Selection selection = random_selection({.groups = c.groups,
                                                .queries = c.tokens,
                                                .keys = c.tokens,
                                                .query_tile = c.query_tile,
                                                .key_block = c.key_block},
                                               c.count, c.steady);
  // Full attention of a length that has about as many pairs.
  const double pairs = visible_pairs(selection);
  const int64_t length = std::min(c.tokens, static_cast<int64_t>(std::sqrt(2 * pairs)));
  const double flash_pairs = 0.5 * static_cast<double>(length * (length + 1));
  const auto part = [&](const Tensor& x) { return x.slice(1, 0, length); };
  const Tensor fq = part(q), fk = part(k), fv = part(v), fdout = part(dout);
  const auto out = attention::selected_attention_forward(q, k, v, selection);
  const auto flash = attention::flash_attention_forward(fq, fk, fv);
  const auto seconds = best_seconds(
      options, 1,
      {[&] { attention::selected_attention_forward(q, k, v, selection); },
       [&] { attention::flash_attention_forward(fq, fk, fv); },
       [&] { attention::selected_attention_backward(dout, q, k, v, out.o, out.lse, selection); },
       [&] { attention::flash_attention_backward(fdout, fq, fk, fv, flash.o, flash.lse); }});
  const auto heads = static_cast<double>(c.heads);
  const double forward = 2e-9 * heads * static_cast<double>(c.dim + c.value_dim);
  const double backward = 2e-9 * heads * static_cast<double>(3 * c.dim + 2 * c.value_dim);
  const double rates[] = {forward * pairs / seconds[0], forward * flash_pairs / seconds[1],
                          backward * pairs / seconds[2], backward * flash_pairs / seconds[3]};
  std::cout << fmt::format(
                   "{{\"case\": \"{}\", \"dtype\": \"{}\", \"threads\": {}, \"shape\": \"T{} H{} "
                   "Hk{} groups{} D{} Dv{} r{} block{} n{}\", \"pairs\": {:.0f}, \"forward_ms\": "
                   "{:.2f}, \"forward_gflops\": {:.1f}, \"flash_forward_gflops\": {:.1f}, "
                   "\"forward_fraction\": {:.3f}, \"backward_ms\": {:.2f}, \"backward_gflops\": "
                   "{:.1f}, \"flash_backward_gflops\": {:.1f}, \"backward_fraction\": {:.3f}}}",
                   c.name, to_string(dtype), num_threads(), c.tokens, c.heads, c.kv_heads, c.groups,
                   c.dim, c.value_dim, c.query_tile, c.key_block, c.count, pairs, seconds[0] * 1e3,
                   rates[0], rates[1], rates[0] / rates[1], seconds[2] * 1e3, rates[2], rates[3],
                   rates[2] / rates[3])
            << std::endl;
}

/// Keys and values as a cache holds them: a head's rows side by side.
Tensor cache_of(const Shape& s, DType dtype, uint64_t seed) {
  return random_operand({s[0], s[2], s[1], s[3]}, dtype, seed).transpose(1, 2);
}

void report_decode(const char* name, const std::string& shape, const Options& options,
                   double full_bytes, double selected_bytes, const std::function<void()>& full,
                   const std::function<void()>& selected) {
  std::vector<double> source(1 << 24, 1.0), target(source.size());
  const auto seconds = best_seconds(options, 10, {full, selected, [&] { target = source; }});
  const double copied = 2.0 * static_cast<double>(source.size() * sizeof(double));
  std::cout << fmt::format(
                   "{{\"case\": \"{}\", \"dtype\": \"{}\", \"threads\": {}, \"shape\": \"{}\", "
                   "\"full_us\": {:.1f}, \"full_gb_per_s\": {:.2f}, \"selected_us\": {:.1f}, "
                   "\"selected_gb_per_s\": {:.2f}, \"speedup\": {:.1f}, "
                   "\"copy_one_thread_gb_per_s\": {:.2f}}}",
                   name, to_string(options.dtype), num_threads(), shape, seconds[0] * 1e6,
                   full_bytes / seconds[0] * 1e-9, seconds[1] * 1e6,
                   selected_bytes / seconds[1] * 1e-9, seconds[0] / seconds[1],
                   copied / seconds[2] * 1e-9)
            << std::endl;
}

void report(const DecodeCase& c, const Options& options) {
  const DType dtype = options.dtype;
  const Tensor q = random_operand({1, 1, c.heads, c.dim}, dtype, 1);
  const Tensor k = cache_of({1, c.keys, c.kv_heads, c.dim}, dtype, 2);
  const Tensor v = cache_of({1, c.keys, c.kv_heads, c.dim}, dtype, 3);
  const Selection selection = random_selection({.groups = c.kv_heads,
                                                .queries = 1,
                                                .keys = c.keys,
                                                .position = c.keys - 1,
                                                .key_block = c.key_block},
                                               c.count);
  const auto row_bytes =
      static_cast<double>(2 * c.kv_heads * c.dim) * static_cast<double>(size_of(dtype));
  report_decode(
      c.name,
      fmt::format("S{} H{} Hk{} D{} block{} n{}", c.keys, c.heads, c.kv_heads, c.dim, c.key_block,
                  c.count),
      options, row_bytes * static_cast<double>(c.keys),
      row_bytes * static_cast<double>(c.key_block * c.count),
      [&] { attention::flash_attention_forward(q, k, v); },
      [&] { attention::selected_attention_forward(q, k, v, selection); });
}

void report(const LatentCase& c, const Options& options) {
  const DType dtype = options.dtype;
  const Tensor q_latent = random_operand({1, 1, c.heads, c.latent_dim}, dtype, 1);
  const Tensor q_rope = random_operand({1, 1, c.heads, c.rope_dim}, dtype, 2);
  const Tensor latents = cache_of({1, c.keys, c.groups, c.latent_dim}, dtype, 3);
  const Tensor rope_keys = random_operand({1, c.keys, 1, c.rope_dim}, dtype, 4);
  const Selection selection = random_selection(
      {.groups = c.groups, .queries = 1, .keys = c.keys, .position = c.keys - 1}, c.count);
  const auto row_bytes = static_cast<double>(c.groups * c.latent_dim + c.rope_dim) *
                         static_cast<double>(size_of(dtype));
  report_decode(
      c.name,
      fmt::format("S{} H{} G{} Dc{} Dr{} block16 n{}", c.keys, c.heads, c.groups, c.latent_dim,
                  c.rope_dim, c.count),
      options, row_bytes * static_cast<double>(c.keys),
      row_bytes * static_cast<double>(16 * c.count),
      [&] {
        attention::latent_attention_forward(q_latent, q_rope, latents, rope_keys, {.scale = 0.1});
      },
      [&] {
        attention::selected_latent_attention_forward(q_latent, q_rope, latents, rope_keys,
                                                     selection, {.scale = 0.1});
      });
}

}  // namespace

int main(int argc, char** argv) {
  if (weft::bench::answer_version(argc, argv)) return 0;
  Options options;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string flag = argv[i];
    if (flag == "--dtype") options.dtype = parse_dtype(argv[i + 1]);
    if (flag == "--filter") options.filter = std::string(",") + argv[i + 1] + ",";
    if (flag == "--repeats") options.repeats = std::max(1, std::atoi(argv[i + 1]));
    if (flag == "--clock") options.cpu_clock = std::string(argv[i + 1]) == "cpu";
  }
  for (const Case& c : kCases) {
    if (options.wants(c.name)) report(c, options);
  }
  for (const DecodeCase& c : kDecodeCases) {
    if (options.wants(c.name)) report(c, options);
  }
  for (const LatentCase& c : kLatentCases) {
    if (options.wants(c.name)) report(c, options);
  }
  return 0;
}
