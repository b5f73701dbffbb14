#include <cmath>

#include "kernels/adamw.h"
#include "kernels/blocks.h"
#include "kernels/step_inputs_cpu.h"

namespace weft::optim {
namespace {

template <class T>
struct Coefficients {
  T beta1, one_minus_beta1, beta2, one_minus_beta2, eps, grad_scale, decay, step_size,
      inv_sqrt_bias2;
};

template <class T>
void update_block(T* __restrict p, const T* __restrict grad, T* __restrict m, T* __restrict v,
                  int64_t count, const Coefficients<T> c) {
  for (int64_t i = 0; i < count; ++i) {
    const T g = c.grad_scale * grad[i];
    m[i] = c.beta1 * m[i] + c.one_minus_beta1 * g;
    v[i] = c.beta2 * v[i] + c.one_minus_beta2 * (g * g);
    const T denominator = std::sqrt(v[i]) * c.inv_sqrt_bias2 + c.eps;
    p[i] = c.decay * p[i] - c.step_size * (m[i] / denominator);
  }
}

template <class T>
void adamw(const AdamWParams& params) {
  struct Pointers {
    T* parameter;
    const T* grad;
    T* exp_avg;
    T* exp_avg_sq;
    Coefficients<T> coefficients;
  };
  const T grad_scale = grad_scale_of<T>(params.inputs);
  if (!std::isfinite(grad_scale)) return;
  std::vector<Pointers> pointers;
  pointers.reserve(params.items.size());
  for (AdamWItem& item : params.items) {
    const double* const numbers = numbers_of(params.inputs, item.row);  // AdamWNumbers
    pointers.push_back({item.parameter.data<T>(),
                        item.grad.data<T>(),
                        item.exp_avg.data<T>(),
                        item.exp_avg_sq.data<T>(),
                        {.beta1 = static_cast<T>(params.beta1),
                         .one_minus_beta1 = static_cast<T>(1 - params.beta1),
                         .beta2 = static_cast<T>(params.beta2),
                         .one_minus_beta2 = static_cast<T>(1 - params.beta2),
                         .eps = static_cast<T>(params.eps),
                         .grad_scale = grad_scale,
                         .decay = static_cast<T>(numbers[0]),
                         .step_size = static_cast<T>(numbers[1]),
                         .inv_sqrt_bias2 = static_cast<T>(numbers[2])}});
  }
  blocks_of(params.items, &AdamWItem::parameter)
      .for_each([&](size_t array, int64_t begin, int64_t end) {
        const Pointers& at = pointers[array];
        update_block(at.parameter + begin, at.grad + begin, at.exp_avg + begin,
                     at.exp_avg_sq + begin, end - begin, at.coefficients);
      });
}

}  // namespace

void adamw_cpu(const AdamWParams& params, Stream /*stream*/) {
  if (params.items.empty()) return;
  if (params.items.front().parameter.dtype() == DType::f64) {
    adamw<double>(params);
  } else {
    adamw<float>(params);
  }
}

}  // namespace weft::optim
