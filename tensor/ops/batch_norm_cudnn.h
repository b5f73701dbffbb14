#pragma once

#include "weft/tensor/stream.h"

#include "ops/batch_norm_kernels.h"

namespace weft::cuda {

// Batch normalisation by cuDNN, whose sums are in f32 (f64 for f64), its running variance unbiased
// and its results the same to the bit each time, as ours. The contracts of the launchers in
// batch_norm_kernels.h; each returns false, with nothing done, where the library does not do it.

bool batch_norm_train_cudnn(BatchNormTrainParams& params, Stream stream);
bool batch_norm_eval_cudnn(BatchNormEvalParams& params, Stream stream);
/// Not with constant statistics: cuDNN's gradient always flows through those of the batch.
bool batch_norm_backward_cudnn(BatchNormBackwardParams& params, Stream stream);

}  // namespace weft::cuda
