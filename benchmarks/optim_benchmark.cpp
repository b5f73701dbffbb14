// Optimizer steps against the machine's copy bandwidth: one JSON object a line.
//
//   weft_optim_benchmark [MILLIONS_OF_PARAMETERS] [ROUNDS]
//
// All programs take turns within a round; a row holds the median over the rounds. Bytes are those
// that the algorithm must move: AdamW reads parameter, gradient and two moments and writes all but
// the gradient (28 bytes a parameter in f32), the norm reads the gradient. Muon is bound by its
// products: gflop_per_s is their rate.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "weft/optim/adamw.h"
#include "weft/optim/clip.h"
#include "weft/optim/muon.h"
#include "weft/optim/sgd.h"
#include "weft/tensor/parallel.h"

#include "answer_version.h"
#include "turns.h"

namespace {

using weft::Tensor;
using weft::optim::NamedParameters;

struct Case {
  std::string name;
  int64_t parameters = 0;
  size_t tensors = 0;
  double bytes = 0;
  double flops = 0;
  std::function<void()> run;
  std::vector<double> seconds = {};
};

/// `count` tensors with about `total` elements together, of uneven sizes, with gradients.
NamedParameters make_parameters(int64_t total, int64_t count) {
  NamedParameters parameters;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t size = count == 1 ? total : 2 * total * (i + 1) / (count * (count + 1));
    weft::autograd::Variable parameter(weft::full({size}, 0.5), /*requires_grad=*/true);
    parameter.mutable_grad() = weft::full({size}, 0.01);
    parameters.push_back({fmt::format("p{}", i), parameter});
  }
  return parameters;
}

int64_t numel(const NamedParameters& parameters) {
  int64_t total = 0;
  for (const auto& named : parameters) total += named.parameter.numel();
  return total;
}

void add_cases(std::vector<Case>& cases, const NamedParameters& parameters) {
  using namespace weft::optim;
  const int64_t count = numel(parameters);
  const auto add = [&](const char* name, double bytes_each, std::function<void()> run) {
    cases.push_back({name, count, parameters.size(), bytes_each * static_cast<double>(count), 0,
                     std::move(run)});
  };
  const auto adamw = std::make_shared<AdamW>(default_groups(parameters));
  const auto sgd = std::make_shared<Sgd>(default_groups(parameters), SgdOptions{.momentum = 0.9});
  add("adamw_step", 28, [adamw] { adamw->step(1e-6, 0.5); });
  add("sgd_momentum_step", 20, [sgd] { sgd->step(1e-6, 0.5); });
  add("grad_norm", 4, [parameters] { (void)grad_norm(parameters); });
}

void add_copy(std::vector<Case>& cases, int64_t count) {
  const Tensor from = weft::full({count}, 1);
  Tensor to = weft::zeros({count});
  cases.push_back({"copy", count, 1, 8.0 * static_cast<double>(count), 0,
                   [from, to]() mutable { to.copy_(from); }});
}

/// The hidden matrices of a decoder of width 768 and three layers.
void add_muon(std::vector<Case>& cases, const char* name, weft::DType product_dtype) {
  using namespace weft::optim;
  NamedParameters parameters;
  double flops = 0;
  const auto add = [&](int64_t rows, int64_t columns) {
    weft::autograd::Variable parameter(weft::full({rows, columns}, 0.5), /*requires_grad=*/true);
    parameter.mutable_grad() = weft::full({rows, columns}, 0.01);
    parameters.push_back({fmt::format("w{}", parameters.size()), parameter});
    const auto shorter = static_cast<double>(std::min(rows, columns));
    const auto longer = static_cast<double>(std::max(rows, columns));
    flops += 5 * (4 * shorter * shorter * longer + 2 * shorter * shorter * shorter);
  };
  for (int layer = 0; layer < 3; ++layer) {
    for (int i = 0; i < 4; ++i) add(768, 768);
    for (int i = 0; i < 2; ++i) add(2048, 768);
    add(768, 2048);
  }
  const auto muon = std::make_shared<Muon>(split_for_muon(parameters),
                                           MuonOptions{.product_dtype = product_dtype});
  const int64_t count = numel(parameters);
  cases.push_back({name, count, parameters.size(), 20.0 * static_cast<double>(count), flops,
                   [muon] { muon->step(1e-6, 0.5); }});
}

}  // namespace

int main(int argc, char** argv) {
  if (weft::bench::answer_version(argc, argv)) return 0;
  const double millions = argc > 1 ? std::atof(argv[1]) : 64;
  const int rounds = argc > 2 ? std::atoi(argv[2]) : 15;
  if (!(millions > 0) || rounds < 1) {
    fmt::print(stderr, "usage: {} [MILLIONS_OF_PARAMETERS] [ROUNDS]\n", argv[0]);
    return 2;
  }
  const auto total = static_cast<int64_t>(millions * 1e6);
  std::vector<Case> cases;
  // As many bytes as AdamW walks, so that caches help both alike.
  add_copy(cases, 2 * total);
  add_cases(cases, make_parameters(total, 1));
  add_cases(cases, make_parameters(total, 200));

  add_muon(cases, "muon_step_f32", weft::DType::f32);
  add_muon(cases, "muon_step_bf16", weft::DType::bf16);

  weft::bench::take_turns(cases, rounds);
  double copy_rate = 0;
  for (const Case& c : cases) {
    const double median = c.seconds[c.seconds.size() / 2];
    const double rate = c.bytes / median;
    if (c.name == "copy") copy_rate = rate;
    fmt::print(
        "{{\"benchmark\": \"{}\", \"parameters\": {}, \"tensors\": {}, \"threads\": {}, "
        "\"ms\": {:.3f}, \"best_ms\": {:.3f}, \"gb_per_s\": {:.2f}, \"of_copy\": {:.3f}, "
        "\"gflop_per_s\": {:.1f}}}\n",
        c.name, c.parameters, c.tensors, weft::num_threads(), 1e3 * median, 1e3 * c.seconds.front(),
        rate / 1e9, rate / copy_rate, c.flops / median / 1e9);
  }
  return 0;
}
