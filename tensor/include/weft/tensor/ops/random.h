#pragma once

#include "weft/tensor/generator.h"
#include "weft/tensor/tensor.h"

namespace weft {

// Random values. Element i (row-major) of a draw is a pure function of the generator's state before
// it: it uses word i % 4 of Philox block offset + i / 4, so the values depend neither on threads
// nor on the device. A draw of n elements takes (n + 3) / 4 blocks.
//
//   uniform  word >> 8, times 2^-24, in [0, 1) (f64: word times 2^-32), then scaled
//   normal   Box-Muller over word pairs (0, 1) and (2, 3) in double: with u = (a + 1) 2^-32 and v =
//   b 2^-32 the pair
//            gives sqrt(-2 ln u) cos(2 pi v) and sqrt(-2 ln u) sin(2 pi v)
//   integer  low + floor(word * (high - low) / 2^32) for ranges up to 2^32

/// Fills `tensor` (floating) with values uniform in [low, high). Throws DTypeError, ConfigError
/// unless low <= high.
Tensor& uniform_(Tensor& tensor, double low, double high, Generator& generator);
/// Fills `tensor` (floating) with N(mean, std^2). Throws DTypeError, ConfigError on a negative std.
Tensor& normal_(Tensor& tensor, double mean, double std, Generator& generator);

Tensor uniform(const Shape& shape, Generator& generator, DType dtype = DType::f32,
               Device device = kCpu);
Tensor normal(const Shape& shape, Generator& generator, DType dtype = DType::f32,
              Device device = kCpu);

/// Integers uniform in [low, high), of an integer type. Throws ConfigError unless low < high, at
/// most 2^32 apart and within the type.
Tensor randint(int64_t low, int64_t high, const Shape& shape, Generator& generator,
               DType dtype = DType::i64, Device device = kCpu);

/// True with probability p for each element. Throws ConfigError unless 0 <= p <= 1.
Tensor bernoulli(double p, const Shape& shape, Generator& generator, Device device = kCpu);

/// The numbers 0..count-1 in random order, i64: Fisher and Yates' shuffle, swapping place i (from
/// the last down) with place floor(word_i * (i + 1) / 2^32). Throws ConfigError unless 0 <= count
/// <= 2^32.
Tensor permutation(int64_t count, Generator& generator, Device device = kCpu);

}  // namespace weft
