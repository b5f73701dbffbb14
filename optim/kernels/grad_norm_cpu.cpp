#include <cmath>

#include "weft/tensor/dispatch.h"

#include "kernels/blocks.h"
#include "kernels/clipping_factor.h"
#include "kernels/grad_norm.h"
#include "kernels/sum_of_squares.h"

namespace weft::optim {
namespace {

template <class List>
BlockList blocks_of_tensors(const List& tensors) {
  BlockList blocks;
  for (const Tensor& tensor : tensors) blocks.add(tensor.numel());
  return blocks;
}

double value_of(const Tensor& number) {
  return number.dtype() == DType::f64 ? *number.data<double>()
                                      : static_cast<double>(*number.data<float>());
}

}  // namespace

void grad_norm_cpu(std::span<const Tensor> tensors, Tensor& norm, Stream /*stream*/) {
  const BlockList blocks = blocks_of_tensors(tensors);
  std::vector<double> sums(static_cast<size_t>(blocks.num_blocks()));
  blocks.for_each([&](size_t array, int64_t begin, int64_t end) {
    const int64_t block = blocks.first_block(array) + begin / BlockList::kBlock;
    dispatch_floating(tensors[array].dtype(), "grad_norm", [&]<class T>() {
      sums[static_cast<size_t>(block)] =
          sum_of_squares(tensors[array].data<T>() + begin, end - begin);
    });
  });
  double total = 0;
  for (const double sum : sums) total += sum;
  *norm.data<double>() = std::sqrt(total);
}

void clip_scale_cpu(const Tensor& norm, const Tensor& unscale, double max_norm, Tensor& scale,
                    Stream /*stream*/) {
  *scale.data<double>() =
      clipping_factor(value_of(norm), unscale.defined() ? value_of(unscale) : 1, max_norm);
}

void scale_cpu(std::span<Tensor> tensors, double factor, Stream /*stream*/) {
  blocks_of_tensors(tensors).for_each([&](size_t array, int64_t begin, int64_t end) {
    dispatch_floating(tensors[array].dtype(), "clip_grad_norm", [&]<class T>() {
      T* const values = tensors[array].data<T>();
      const auto converted = static_cast<accumulator_t<T>>(factor);
      for (int64_t i = begin; i < end; ++i)
        values[i] = static_cast<T>(static_cast<accumulator_t<T>>(values[i]) * converted);
    });
  });
}

int64_t find_non_finite_cpu(const Tensor& tensor, Stream /*stream*/) {
  return dispatch_floating(tensor.dtype(), "find_non_finite_grad", [&]<class T>() -> int64_t {
    const T* const values = tensor.data<T>();
    for (int64_t i = 0; i < tensor.numel(); ++i)
      if (!std::isfinite(static_cast<accumulator_t<T>>(values[i]))) return i;
    return -1;
  });
}

}  // namespace weft::optim
