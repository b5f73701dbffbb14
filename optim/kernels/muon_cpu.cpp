#include <array>
#include <cmath>

#include "kernels/blocks.h"
#include "kernels/muon.h"
#include "kernels/step_inputs_cpu.h"
#include "kernels/sum_of_squares.h"

namespace weft::optim {
namespace {

bool is_applied(const MuonParams& params) {
  bool is_finite = false;
  dispatch_parameter(
      params, [&]<class T>() { is_finite = std::isfinite(grad_scale_of<T>(params.inputs)); });
  return is_finite;
}

template <class T>
struct Coefficients {
  T momentum, grad_scale;
  T of_grad, of_buffer;  // direction = of_grad * grad + of_buffer * buffer
};

template <class T>
Coefficients<T> coefficients(const MuonParams& params) {
  const T grad_scale = grad_scale_of<T>(params.inputs);
  return {.momentum = static_cast<T>(params.momentum),
          .grad_scale = grad_scale,
          .of_grad = params.nesterov ? grad_scale : T(0),
          .of_buffer = static_cast<T>(params.nesterov ? params.momentum : 1)};
}

template <class T>
void momentum_block(T* __restrict buffer, const T* __restrict grad, T* __restrict direction,
                    int64_t count, const Coefficients<T> c) {
  for (int64_t i = 0; i < count; ++i) {
    buffer[i] = c.momentum * buffer[i] + c.grad_scale * grad[i];
    direction[i] = c.of_grad * grad[i] + c.of_buffer * buffer[i];
  }
}

template <class T, class D>
void direction_block(const T* __restrict buffer, const T* __restrict grad, D* __restrict to,
                     int64_t count, const Coefficients<T> c, T factor) {
  for (int64_t i = 0; i < count; ++i) {
    const T direction = factor * (c.of_grad * grad[i] + c.of_buffer * buffer[i]);
    to[i] = static_cast<D>(static_cast<accumulator_t<D>>(direction));
  }
}

template <class T, class D>
void apply_block(T* __restrict p, const D* __restrict x, int64_t count, T decay, T step_size) {
  for (int64_t i = 0; i < count; ++i)
    p[i] = decay * p[i] - step_size * static_cast<T>(static_cast<accumulator_t<D>>(x[i]));
}

}  // namespace

void muon_momentum_cpu(const MuonParams& params, Tensor& square_sums, Stream /*stream*/) {
  if (!is_applied(params)) {
    square_sums.zero_();
    return;
  }
  const BlockList blocks = blocks_of(params.items, &MuonItem::parameter);
  std::vector<double> of_block(static_cast<size_t>(blocks.num_blocks()));
  dispatch_parameter(params, [&]<class T>() {
    const Coefficients<T> c = coefficients<T>(params);
    blocks.for_each([&](size_t array, int64_t begin, int64_t end) {
      MuonItem& item = params.items[array];
      std::array<T, BlockList::kBlock> direction;
      momentum_block(item.momentum_buffer.data<T>() + begin, item.grad.data<T>() + begin,
                     direction.data(), end - begin, c);
      const int64_t block = blocks.first_block(array) + begin / BlockList::kBlock;
      of_block[static_cast<size_t>(block)] = sum_of_squares(direction.data(), end - begin);
    });
  });
  double* const sums = square_sums.data<double>();
  for (size_t i = 0; i < params.items.size(); ++i) {
    sums[i] = 0;
    for (int64_t b = blocks.first_block(i); b < blocks.first_block(i + 1); ++b)
      sums[i] += of_block[static_cast<size_t>(b)];
  }
}

void muon_direction_cpu(const MuonParams& params, const Tensor& square_sums, Tensor& stacked,
                        Stream /*stream*/) {
  if (!is_applied(params)) {
    stacked.zero_();
    return;
  }
  constexpr double kNormFloor = 1e-7;  // a zero direction stays zero
  const double* const sums = square_sums.data<double>();
  const int64_t size = params.items.front().parameter.numel();
  const BlockList blocks = blocks_of(params.items, &MuonItem::parameter);
  dispatch_parameter(params, [&]<class T>() {
    const Coefficients<T> c = coefficients<T>(params);
    dispatch_stacked(stacked, [&]<class D>() {
      D* const to = stacked.data<D>();
      blocks.for_each([&](size_t array, int64_t begin, int64_t end) {
        const MuonItem& item = params.items[array];
        direction_block(item.momentum_buffer.data<T>() + begin, item.grad.data<T>() + begin,
                        to + static_cast<int64_t>(array) * size + begin, end - begin, c,
                        static_cast<T>(1 / (std::sqrt(sums[array]) + kNormFloor)));
      });
    });
  });
}

void muon_apply_cpu(const MuonParams& params, const Tensor& stacked, Stream /*stream*/) {
  if (!is_applied(params)) return;
  const int64_t size = params.items.front().parameter.numel();
  const BlockList blocks = blocks_of(params.items, &MuonItem::parameter);
  dispatch_parameter(params, [&]<class T>() {
    dispatch_stacked(stacked, [&]<class D>() {
      const D* const from = stacked.data<D>();
      blocks.for_each([&](size_t array, int64_t begin, int64_t end) {
        MuonItem& item = params.items[array];
        const double* const numbers = numbers_of(params.inputs, item.row);  // MuonNumbers
        apply_block(item.parameter.data<T>() + begin,
                    from + static_cast<int64_t>(array) * size + begin, end - begin,
                    static_cast<T>(numbers[0]), static_cast<T>(numbers[1]));
      });
    });
  });
}

}  // namespace weft::optim
