#pragma once

#include <functional>
#include <memory>

#include "weft/tensor/tensor.h"

namespace weft {

class DecodeRecorder;

/// A decoding step that one kernel runs from the tokens to the logits. Kernel after kernel, a step
/// of a small model spends more time between kernels than in them; here every multiprocessor
/// fetches its share of the next weights while the vectors between the layers are still being
/// computed and handed around.
///
///   auto program = DecodeProgram::record(device, [&] { return model.decode(...); });
///   if (program) program->run();  // as often as wanted, also while a graph is captured
class DecodeProgram {
 public:
  /// Calls `step`, in which token_rows(), decode_linear(), decode_swiglu() and decode_attention()
  /// say what they would do and do nothing; its result must be that of the last product. Returns
  /// null where they are not a chain of what the kernel knows, and where the device cannot run it:
  /// bf16 and f16, up to 4 sequences, kernels compiled for compute capability 9.0. `step` then has
  /// to be called anew, and what it returned and wrote is undefined. With WEFT_DECODE_PROGRAM=0 in
  /// the environment it is always null.
  static std::unique_ptr<DecodeProgram> record(Device device, const std::function<Tensor()>& step);
  ~DecodeProgram();

  /// Puts the step on the current stream of the device; the tensors that it read when it was
  /// recorded are read again, at the addresses that they had. Runs must follow one another.
  void run();
  /// What the step gives, from run() to run().
  const Tensor& result() const;

 private:
  explicit DecodeProgram(std::unique_ptr<DecodeRecorder> recorder);
  std::unique_ptr<DecodeRecorder> recorder_;
};

}  // namespace weft
