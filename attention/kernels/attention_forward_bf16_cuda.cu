#include "kernels/attention_forward_cuda.cuh"

namespace weft::attention::gpu {

template void run_forward<bf16>(const char* op, const Problem& problem, const ForwardPlan& plan,
                                Stream stream);

}  // namespace weft::attention::gpu
