#include "kernels/attention_backward_cuda.cuh"

namespace weft::attention::gpu {

template void run_backward<f16>(const char* op, const BackwardProblem& problem, Stream stream);

}  // namespace weft::attention::gpu
