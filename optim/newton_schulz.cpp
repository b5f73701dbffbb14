#include "newton_schulz.h"

#include <utility>

#include "weft/tensor/ops/matmul.h"

namespace weft::optim {
namespace {

// Chosen by Jordan et al. for speed: the slope at 0 is as steep as can be while the iteration still
// ends within [0.7, 1.2] or so.
constexpr double kLinear = 3.4445;
constexpr double kCubic = -4.7750;
constexpr double kQuintic = 2.0315;

}  // namespace

Tensor newton_schulz(Tensor x, int steps) {
  const bool wide = x.size(-2) <= x.size(-1);
  Tensor next = empty_like(x);
  for (int step = 0; step < steps; ++step) {
    // x x^T or x^T x: [..., S, S] with S the shorter side.
    const Tensor gram =
        wide ? matmul(x, x, {.transpose_b = true}) : matmul(x, x, {.transpose_a = true});
    Tensor polynomial = gram.clone();
    matmul_into(polynomial, gram, gram, kCubic, {.alpha = kQuintic});
    next.copy_(x);
    if (wide) {
      matmul_into(next, polynomial, x, kLinear);
    } else {
      matmul_into(next, x, polynomial, kLinear);
    }
    std::swap(x, next);
  }
  return x;
}

}  // namespace weft::optim
