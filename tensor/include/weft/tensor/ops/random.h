#pragma once

#include "weft/tensor/generator.h"
#include "weft/tensor/tensor.h"

namespace weft {

// Random tensors from a Generator. Element i, in row-major order, is a function of the generator's
// state before the call and of i alone: the same on any number of threads, in any layout, and bit
// for bit on every machine and device. A call takes ceil(n / 4) blocks from the stream for n
// elements, and element i has
//   w = word i % 4 of philox4x32(seed, offset + i / 4)    and    u = (w >> 8) * 2^-24, in [0, 1).
// Values are computed in double for f64 and in float for all other types, then rounded; the 24
// random bits are the same for every type, so that a model starts alike in f64 and in bf16.

/// low + (high - low) * u with one rounding: in [low, high], and high itself only by rounding.
/// Floating types. Throws ConfigError unless low <= high and both are finite.
Tensor& uniform_(Tensor& tensor, double low, double high, Generator& generator);
/// Uniform in [0, 1).
Tensor uniform(const Shape& shape, Generator& generator, DType dtype = DType::f32,
               Device device = kCpu);

/// mean + std * z with one rounding, z standard normal (|z| < 5.8) by Box and Muller: elements 2k
/// and 2k+1, with words w and w', have z = r cos(a) and r sin(a), where
/// r = sqrt(-2 ln(((w >> 8) + 1) / 2^24)) and a = 2 pi (w' >> 8) / 2^24, evaluated in float by a
/// fixed sequence of operations. Floating types. Throws ConfigError unless mean is finite and std
/// finite and at least 0.
Tensor& normal_(Tensor& tensor, double mean, double std, Generator& generator);
/// Standard normal.
Tensor normal(const Shape& shape, Generator& generator, DType dtype = DType::f32,
              Device device = kCpu);

/// Integers low + floor(w * (high - low) / 2^32): in [low, high), each with the same chance but for
/// an error of at most (high - low) / 2^32. Integer types. Throws ConfigError unless
/// low < high <= low + 2^32 and the type holds them.
Tensor& randint_(Tensor& tensor, int64_t low, int64_t high, Generator& generator);
Tensor randint(int64_t low, int64_t high, const Shape& shape, Generator& generator,
               DType dtype = DType::i64, Device device = kCpu);

/// True (or 1) where u < p. Any type. Throws ConfigError unless 0 <= p <= 1.
Tensor& bernoulli_(Tensor& tensor, double p, Generator& generator);
Tensor bernoulli(double p, const Shape& shape, Generator& generator, DType dtype = DType::boolean,
                 Device device = kCpu);

/// 0 ... count-1 (i64) in random order: sorted by 64-bit keys, of which key i is the pair of words
/// 2 (i % 2), 2 (i % 2) + 1 (low, high) of block offset + i / 2; equal keys keep their order. Takes
/// ceil(count / 2) blocks. Throws ConfigError for a negative count.
Tensor permutation(int64_t count, Generator& generator, Device device = kCpu);

}  // namespace weft
