// A program that computes on the second GPU costs the first nothing: a context there would take
// memory of it, and could not be had where it is full. Contexts last as long as the
// process, so that each test has one of its own.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <functional>
#include <optional>
#include <thread>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "weft/autograd/functions/arithmetic.h"
#include "weft/autograd/functions/linear.h"
#include "weft/autograd/functions/reduce.h"
#include "weft/optim/adamw.h"
#include "weft/optim/training_step.h"
#include "weft/tensor/allocator.h"
#include "weft/tensor/error.h"
#include "weft/tensor/ops/arithmetic.h"
#include "weft/tensor/ops/matmul.h"
#include "weft/tensor/pinned.h"
#include "weft/tensor/stream.h"

#include "gpu_context.h"
#include "random_tensor.h"

namespace weft {
namespace {

using autograd::Variable;
using test::has_gpu_context;
using test::random_tensor;

constexpr Device kSecond{DeviceType::cuda, 1};

/// Runs `work` on this thread, or on one that has done nothing with CUDA yet.
void run(const std::function<void()>& work, bool on_new_thread) {
  if (on_new_thread) {
    std::thread(work).join();
  } else {
    work();
  }
}

/// Ends the process: with 0 where the work gave the second GPU alone a context.
[[noreturn]] void exit_after(const std::function<void()>& work) {
  int code = 1;
  try {
    work();
    fmt::print(stderr, "contexts: first GPU {}, second GPU {}\n", has_gpu_context(0),
               has_gpu_context(1));
    code = !has_gpu_context(0) && has_gpu_context(1) ? 0 : 1;
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
  }
  std::_Exit(code);
}

class SecondDeviceDeathTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (cuda_device_count() < 2) GTEST_SKIP() << "needs two GPUs, there is " << cuda_device_count();
    GTEST_FLAG_SET(death_test_style, "threadsafe");  // in a process that starts anew
  }

  static void expect_first_is_left_alone(const std::function<void()>& work) {
    EXPECT_EXIT(exit_after(work), ::testing::ExitedWithCode(0), "");
  }
};

TEST_F(SecondDeviceDeathTest, AskingForItLeavesTheFirstAlone) {
  expect_first_is_left_alone([] {
    if (!is_available(kSecond)) throw DeviceError(unavailable_reason(kSecond));
  });
}

TEST_F(SecondDeviceDeathTest, TensorsAndKernelsLeaveTheFirstAlone) {
  expect_first_is_left_alone([] {
    for (const bool on_new_thread : {false, true}) {
      std::optional<Tensor> product;
      run(
          [&] {
            const Tensor a = random_tensor({64, 48}, DType::f32, 1).to(kSecond);
            product = add(matmul(a, a.transpose(0, 1)), a.slice(1, 0, 1));
            if (!std::isfinite(product->select(0, 3).select(0, 5).item<double>()))
              throw CudaError("no number");
          },
          on_new_thread);
      // Freed where it was not made, and its memory given back to the driver.
      run([&] { product.reset(); }, !on_new_thread);
      run([] { allocator(kSecond).empty_cache(); }, on_new_thread);
    }
  });
}

TEST_F(SecondDeviceDeathTest, StreamsAndEventsLeaveTheFirstAlone) {
  expect_first_is_left_alone([] {
    for (const bool on_new_thread : {true, false}) {
      std::optional<SideStream> side;
      std::optional<Event> start, end;
      std::optional<Tensor> tensor;
      run(
          [&] {
            side.emplace(kSecond);
            start.emplace(kSecond, /*timed=*/true);
            end.emplace(kSecond, /*timed=*/true);
          },
          on_new_thread);
      run(
          [&] {
            const StreamGuard guard(side->stream());
            start->record(side->stream());
            tensor = ones({1000}, DType::f32, kSecond);
            end->record(side->stream());
          },
          on_new_thread);
      run([&] { end->synchronize(); }, on_new_thread);
      run([&] { start->milliseconds_to(*end); }, on_new_thread);
      run([&] { tensor.reset(); }, on_new_thread);  // of another stream than this thread's
      run([&] { end.reset(), start.reset(), side.reset(); }, on_new_thread);
    }
  });
}

TEST_F(SecondDeviceDeathTest, PageLockedMemoryLeavesTheFirstAlone) {
  expect_first_is_left_alone([] {
    check_available(kSecond);
    for (int i = 0; i < 3; ++i) {  // the same block, once copies from it are done
      std::optional<Tensor> batch, moved;
      run([&] { batch = empty_pinned({1000}); }, /*on_new_thread=*/true);
      batch->fill_(i);
      run([&] { moved = batch->to(kSecond); }, /*on_new_thread=*/true);
      run([&] { batch.reset(); }, /*on_new_thread=*/true);
      if (moved->select(0, 999).item<double>() != i) throw CudaError("another number");
    }
  });
}

TEST_F(SecondDeviceDeathTest, RecordedTrainingStepsLeaveTheFirstAlone) {
  expect_first_is_left_alone([] {
    const auto parameter = [](const char* name, const Shape& shape, uint64_t seed) {
      return autograd::NamedParameter{
          name, Variable(random_tensor(shape, DType::f32, seed).to(kSecond), true)};
    };
    const autograd::NamedParameters model = {parameter("up", {48, 33}, 1),
                                             parameter("down", {17, 48}, 2)};
    optim::AdamW optimizer(optim::default_groups(model));
    std::optional<optim::TrainingStep> step;
    step.emplace(
        optimizer, kSecond,
        [&](const Tensor& inputs, const Tensor& targets, const Tensor& scale) {
          const Variable up = autograd::linear(Variable(inputs), model[0].parameter);
          const Variable error =
              autograd::sub(autograd::linear(up, model[1].parameter), Variable(targets));
          return autograd::mul(autograd::sum(autograd::mul(error, error)), Variable(scale));
        },
        optim::TrainingStepOptions{.grad_clip = 1});
    for (uint64_t i = 0; i < 4; ++i) {
      const std::vector<optim::MicroBatch> batches = {
          {random_tensor({20, 33}, DType::f32, i), random_tensor({20, 17}, DType::f32, i + 9), 20}};
      if (!std::isfinite(step->run(1e-3, batches).loss)) throw CudaError("no number");
    }
    if (!step->is_replayed()) throw CudaError(step->graph_refusal());
    run([&] { step.reset(); }, /*on_new_thread=*/true);  // the graph with it
  });
}

}  // namespace
}  // namespace weft
