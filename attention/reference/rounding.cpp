#include "reference/rounding.h"

#include "weft/tensor/half.h"

namespace weft::attention::reference {
namespace {

thread_local DType step_dtype = DType::f64;

}  // namespace

RoundSteps::RoundSteps(DType dtype) : before_(step_dtype) {
  step_dtype = dtype;
}

RoundSteps::~RoundSteps() {
  step_dtype = before_;
}

double rounded(double value) {
  switch (step_dtype) {
    case DType::bf16:
      return static_cast<float>(bf16(static_cast<float>(value)));
    case DType::f16:
      return static_cast<float>(f16(static_cast<float>(value)));
    case DType::f32:
      return static_cast<float>(value);
    default:
      return value;
  }
}

}  // namespace weft::attention::reference
