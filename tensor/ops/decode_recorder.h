#pragma once

// How ops of a decoding step take part in DecodeProgram::record().
#include <cstdint>
#include <vector>

#include "weft/tensor/tensor.h"

#include "ops/decode_program_cuda.h"
#include "ops/few_rows_cuda.h"

namespace weft {

/// The attention of a step as decode_attention() describes it, with heads in the order of
/// `packed`: queries, keys, values.
struct DecodeAttentionStep {
  Tensor packed;            // [B, (H + 2 Hk) D], rotated and cached by the step
  Tensor keys, values;      // [B, Hk, S, D], dense
  const int64_t* position;  // on the device
  Tensor table;             // f32 [positions, D]; undefined: no rotation
  Tensor o;                 // [B, H D], dense
  int64_t heads = 0, kv_heads = 0, dim = 0;
  double scale = 1;
};

/// Collects the parts of a step. Each says whether it fits to what came before; the first that does
/// not ends the recording by an exception, which DecodeProgram::record() catches.
class DecodeRecorder {
 public:
  explicit DecodeRecorder(Device device) : device_(device) {}

  /// That of DecodeProgram::record() on this thread, or null.
  static DecodeRecorder* current();

  void token_rows(const Tensor& table, const Tensor& tokens, const Tensor& rows);
  void product(const FewRowsParams& params);
  void attention(const DecodeAttentionStep& step);
  /// For what has no place in a program.
  [[noreturn]] void refuse();

  /// Ends the recording: `result` is what the program has to give.
  void finish(const Tensor& result);
  void launch();
  const Tensor& result() const { return result_; }

 private:
  friend class DecodeProgram;
  void keep(const Tensor& tensor);
  void require(bool fits) {
    if (!fits) refuse();
  }
  bool is_stream(const Tensor& x) const;
  bool is_last(const Tensor& x) const;
  void set_last(const Tensor& x);
  void plan();

  Device device_;
  std::vector<DecodeProgramStep> steps_;
  std::vector<Tensor> kept_;  // what the program reads, and what tells tensors apart
  Tensor stream_;             // the residual stream as the ops have it
  Tensor last_;               // output of the last step
  Tensor result_;
  DecodeProgramParams params_{};
  DType dtype_ = DType::f32;
  int64_t blocks_ = 0;
  Tensor device_steps_, exchange_, partials_, epoch_;
};

}  // namespace weft
