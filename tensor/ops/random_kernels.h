#pragma once

#include "weft/tensor/generator.h"
#include "weft/tensor/stream.h"
#include "weft/tensor/tensor.h"

namespace weft {

/// The state for an op that draws this many blocks from the generator, which moves on. Throws
/// CaptureError where a graph is captured whose replays would all draw the same.
GeneratorState reserve_for(const char* op, Generator& generator, Device device, uint64_t blocks);

// Launchers behind random.h and dropout.h: element i in row-major order is made from word i % 4 of
// block state.offset + i / 4. `name` is for error texts.

void uniform_cpu(Tensor& tensor, double low, double high, GeneratorState state, Stream stream);
void uniform_cuda(Tensor& tensor, double low, double high, GeneratorState state, Stream stream);
void normal_cpu(Tensor& tensor, double mean, double std, GeneratorState state, Stream stream);
void normal_cuda(Tensor& tensor, double mean, double std, GeneratorState state, Stream stream);
/// Elements of a floating type are 0 or 1.
void bernoulli_cpu(Tensor& tensor, double p, GeneratorState state, Stream stream);
void bernoulli_cuda(Tensor& tensor, double p, GeneratorState state, Stream stream);
/// low + floor(word * range / 2^32).
void randint_cpu(Tensor& tensor, int64_t low, int64_t range, GeneratorState state, Stream stream);
void randint_cuda(Tensor& tensor, int64_t low, int64_t range, GeneratorState state, Stream stream);
/// `tensor` is dense, i64 and of rank 1.
void permutation_cpu(Tensor& tensor, GeneratorState state, Stream stream);
void permutation_cuda(Tensor& tensor, GeneratorState state, Stream stream);
void dropout_cpu(const Tensor& x, double p, GeneratorState state, Tensor& out, Stream stream);
void dropout_cuda(const Tensor& x, double p, GeneratorState state, Tensor& out, Stream stream);

}  // namespace weft
