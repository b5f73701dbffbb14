// Elementwise ops, copies and random fills against the machine's copy bandwidth: one JSON object a
// line.
//
//   weft_elementwise_benchmark [MILLIONS_OF_ELEMENTS] [ROUNDS]
//
// All cases take turns within a round; a row holds the median over the rounds. Bytes are those that
// the op must read and write; of_copy is their rate against that of std::memcpy on all threads.
// Every case writes into fresh tensors as user code does, so that the allocator counts too.
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "weft/tensor/ops/arithmetic.h"
#include "weft/tensor/ops/compare.h"
#include "weft/tensor/ops/dropout.h"
#include "weft/tensor/ops/random.h"
#include "weft/tensor/ops/unary.h"
#include "weft/tensor/parallel.h"

#include "answer_version.h"
#include "turns.h"

namespace {

using weft::DType;
using weft::Tensor;

struct Case {
  std::string name;
  double bytes = 0;
  std::function<void()> run;
  std::vector<double> seconds = {};
};

/// A square matrix of about `count` random elements.
Tensor matrix(int64_t count, DType dtype) {
  int64_t side = 64;
  while (side * side < count) side += 64;
  weft::Generator generator(1);
  Tensor x = weft::empty({side, side});
  weft::uniform_(x, 0.5, 2, generator);
  return x.to(dtype);
}

std::vector<Case> make_cases(int64_t count) {
  std::vector<Case> cases;
  const Tensor f32 = matrix(count, DType::f32);
  const auto elements = static_cast<double>(f32.numel());
  const auto add_case = [&](std::string name, double bytes_each, std::function<void()> run) {
    cases.push_back({std::move(name), bytes_each * elements, std::move(run)});
  };
  add_case("memcpy", 8, [from = f32, to = f32.clone()]() mutable {
    auto* const out = static_cast<char*>(to.raw_data());
    const auto* const in = static_cast<const char*>(from.raw_data());
    weft::parallel_for(0, 4 * from.numel(), 1 << 16, [&](int64_t begin, int64_t end) {
      std::memcpy(out + begin, in + begin, static_cast<size_t>(end - begin));
    });
  });
  for (DType dtype : {DType::f32, DType::bf16}) {
    const Tensor a = f32.to(dtype);
    const Tensor b = a.clone();
    const Tensor row = a.select(0, 0).clone();
    const double size = dtype == DType::f32 ? 4 : 2;
    const auto name = [&](const char* op) { return fmt::format("{}_{}", op, to_string(dtype)); };
    add_case(name("add"), 3 * size, [=] { weft::add(a, b); });
    add_case(name("add_row"), 2 * size, [=] { weft::add(a, row); });
    add_case(name("mul_scalar"), 2 * size, [=] { weft::mul(a, 1.5); });
    add_case(name("add_in_place"), 3 * size, [x = a.clone(), b]() mutable { weft::add_(x, b); });
    add_case(name("add_transposed"), 3 * size, [=] { weft::add(a, b.transpose(0, 1)); });
    add_case(name("gt"), 2 * size + 1, [=] { weft::gt(a, b); });
    add_case(name("exp"), 2 * size, [=] { weft::exp(a); });
    add_case(name("log"), 2 * size, [=] { weft::log(a); });
    add_case(name("tanh"), 2 * size, [=] { weft::tanh(a); });
    add_case(name("sigmoid"), 2 * size, [=] { weft::sigmoid(a); });
    add_case(name("erf"), 2 * size, [=] { weft::erf(a); });
    add_case(name("tanh_backward"), 3 * size,
             [=] { weft::unary_backward(weft::UnaryFunction::tanh, a, b); });
    add_case(name("all_finite"), size, [=] { weft::all_finite(a); });
    add_case(name("clone"), 2 * size, [=] { a.clone(); });
    add_case(name("clone_transposed"), 2 * size, [=] { a.transpose(0, 1).clone(); });
    add_case(name("clone_heads"), 2 * size, [=] {
      // [B, T, H, D] to [B, H, T, D], as attention layers do.
      a.view({8, a.size(0) / 8, a.size(1) / 64, 64}).transpose(1, 2).clone();
    });
    add_case(name("fill"), size, [x = a.clone()]() mutable { x.fill_(1); });
    add_case(name("uniform"), size, [x = a.clone()]() mutable {
      weft::Generator generator(2);
      weft::uniform_(x, 0, 1, generator);
    });
    add_case(name("normal"), size, [x = a.clone()]() mutable {
      weft::Generator generator(2);
      weft::normal_(x, 0, 1, generator);
    });
    add_case(name("dropout"), 2 * size, [=] { weft::dropout(a, 0.1, weft::GeneratorState{3, 0}); });
  }
  const Tensor bf16 = f32.to(DType::bf16);
  const Tensor f16 = f32.to(DType::f16);
  add_case("f32_to_bf16", 6, [=] { f32.to(DType::bf16); });
  add_case("bf16_to_f32", 6, [=] { bf16.to(DType::f32); });
  add_case("f32_to_f16", 6, [=] { f32.to(DType::f16); });
  add_case("f16_to_f32", 6, [=] { f16.to(DType::f32); });
  return cases;
}

}  // namespace

int main(int argc, char** argv) {
  if (weft::bench::answer_version(argc, argv)) return 0;
  const double millions = argc > 1 ? std::atof(argv[1]) : 16;
  const int rounds = argc > 2 ? std::atoi(argv[2]) : 7;
  if (!(millions > 0) || rounds < 1) {
    fmt::print(stderr, "usage: {} [MILLIONS_OF_ELEMENTS] [ROUNDS]\n", argv[0]);
    return 2;
  }
  std::vector<Case> cases = make_cases(static_cast<int64_t>(millions * 1e6));
  weft::bench::take_turns(cases, rounds);
  double copy_rate = 0;
  for (const Case& c : cases) {
    const double median = c.seconds[c.seconds.size() / 2];
    const double rate = c.bytes / median;
    if (c.name == "memcpy") copy_rate = rate;
    fmt::print(
        "{{\"benchmark\": \"{}\", \"threads\": {}, \"ms\": {:.3f}, \"best_ms\": {:.3f}, "
        "\"gb_per_s\": {:.2f}, \"of_copy\": {:.3f}}}\n",
        c.name, weft::num_threads(), 1e3 * median, 1e3 * c.seconds.front(), rate / 1e9,
        rate / copy_rate);
  }
  return 0;
}
