#include "weft/optim/op_table.h"

#include "weft/optim/adamw.h"
#include "weft/optim/clip.h"
#include "weft/optim/muon.h"
#include "weft/optim/sgd.h"

#include "op_table_check.h"
#include "optim_test_support.h"

namespace weft::optim {
namespace {

/// A variable that could have a gradient, with one of type `dtype`.
autograd::NamedParameter with_grad(DType dtype) {
  autograd::NamedParameter named{"w", autograd::Variable(ones({2, 3}, DType::f32))};
  set_grad(named, ones({2, 3}, dtype));
  return named;
}

autograd::NamedParameter parameter(DType dtype) {
  if (!is_floating(dtype)) throw DTypeError("no variable of this type has a gradient");
  autograd::NamedParameter named = make_parameter("w", ones({2, 3}, dtype));
  set_grad(named, ones({2, 3}, dtype));
  return named;
}

TEST(OptimOpTable, SaysWhatTheStepsTake) {
  const auto muon_step = [](DType dtype) {
    Muon({.matrices = {{.name = "matrices", .parameters = {parameter(dtype)}}}}).step(0.1);
  };
  const test::OpCallers callers = {
      {"sgd",
       [](DType dtype) { Sgd({{.name = "all", .parameters = {parameter(dtype)}}}).step(0.1); }},
      {"adamw",
       [](DType dtype) { AdamW({{.name = "all", .parameters = {parameter(dtype)}}}).step(0.1); }},
      {"muon_momentum", muon_step},
      {"muon_direction", muon_step},
      {"muon_apply", muon_step},
      {"grad_norm", [](DType dtype) { grad_norm({with_grad(dtype)}); }},
      {"clip_scale", [](DType dtype) { clip_scale_tensor(ones({}, dtype), 0.1, ones({}, dtype)); }},
      {"clip_grad_norm", [](DType dtype) { clip_grad_norm({with_grad(dtype)}, 0.1); }},
      {"find_non_finite_grad", [](DType dtype) { find_non_finite_grad({with_grad(dtype)}); }},
  };
  test::expect_truth(op_table(), callers);
}

TEST(OptimOpTable, HasAKernelOfEveryStepOnBothDevices) {
  test::expect_both_devices(op_table());
}

TEST(OptimOpTable, HoldsEveryKernel) {
  test::expect_all_kernels(WEFT_SOURCE_DIR "/optim", op_table());
}

}  // namespace
}  // namespace weft::optim
