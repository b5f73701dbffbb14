#include <cmath>

#include "kernels/blocks.h"
#include "kernels/sgd.h"
#include "kernels/step_inputs_cpu.h"

namespace weft::optim {
namespace {

template <class T>
struct Coefficients {
  T lr, weight_decay, keep, take, momentum, grad_scale;
};

template <class T>
void plain_block(T* __restrict p, const T* __restrict grad, int64_t count,
                 const Coefficients<T> c) {
  for (int64_t i = 0; i < count; ++i)
    p[i] -= c.lr * (c.grad_scale * grad[i] + c.weight_decay * p[i]);
}

template <class T, bool kNesterov>
void momentum_block(T* __restrict p, const T* __restrict grad, T* __restrict buffer, int64_t count,
                    const Coefficients<T> c) {
  for (int64_t i = 0; i < count; ++i) {
    const T g = c.grad_scale * grad[i] + c.weight_decay * p[i];
    buffer[i] = c.keep * buffer[i] + c.take * g;
    p[i] -= c.lr * (kNesterov ? g + c.momentum * buffer[i] : buffer[i]);
  }
}

template <class T>
void sgd(const SgdParams& params) {
  struct Pointers {
    T* parameter;
    const T* grad;
    T* buffer;
    Coefficients<T> coefficients;
  };
  const T grad_scale = grad_scale_of<T>(params.inputs);
  if (!std::isfinite(grad_scale)) return;
  std::vector<Pointers> pointers;
  pointers.reserve(params.items.size());
  for (SgdItem& item : params.items) {
    const double* const numbers = numbers_of(params.inputs, item.row);  // SgdNumbers
    pointers.push_back({item.parameter.data<T>(),
                        item.grad.data<T>(),
                        item.momentum_buffer.defined() ? item.momentum_buffer.data<T>() : nullptr,
                        {.lr = static_cast<T>(numbers[0]),
                         .weight_decay = static_cast<T>(numbers[1]),
                         .keep = static_cast<T>(numbers[2]),
                         .take = static_cast<T>(numbers[3]),
                         .momentum = static_cast<T>(params.momentum),
                         .grad_scale = grad_scale}});
  }
  blocks_of(params.items, &SgdItem::parameter)
      .for_each([&](size_t array, int64_t begin, int64_t end) {
        const Pointers& at = pointers[array];
        T* const parameter = at.parameter + begin;
        const T* const grad = at.grad + begin;
        const int64_t count = end - begin;
        if (at.buffer == nullptr) {
          plain_block(parameter, grad, count, at.coefficients);
        } else if (params.nesterov) {
          momentum_block<T, true>(parameter, grad, at.buffer + begin, count, at.coefficients);
        } else {
          momentum_block<T, false>(parameter, grad, at.buffer + begin, count, at.coefficients);
        }
      });
}

}  // namespace

void sgd_cpu(const SgdParams& params, Stream /*stream*/) {
  if (params.items.empty()) return;
  if (params.items.front().parameter.dtype() == DType::f64) {
    sgd<double>(params);
  } else {
    sgd<float>(params);
  }
}

}  // namespace weft::optim
