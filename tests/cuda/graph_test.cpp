// Work captured as a graph and replayed does what it does when it runs at once.
#include "weft/tensor/graph.h"

#include <thread>

#include "weft/autograd/functions/activation.h"
#include "weft/autograd/functions/linear.h"
#include "weft/autograd/functions/reduce.h"
#include "weft/autograd/functions/rms_norm.h"
#include "weft/tensor/allocator.h"
#include "weft/tensor/ops/arithmetic.h"
#include "weft/tensor/ops/embedding.h"
#include "weft/tensor/ops/gather.h"
#include "weft/tensor/ops/matmul.h"
#include "weft/tensor/ops/softmax.h"
#include "weft/tensor/ops/unary.h"
#include "weft/tensor/pinned.h"
#include "weft/tensor/stream.h"

#include "devices.h"

namespace weft {
namespace {

using autograd::Variable;
using test::expect_same;
using test::kGpu;
using test::random_tensor;

class CudaGraph : public test::CudaTest {
 protected:
  void TearDown() override { EXPECT_FALSE(is_capturing()); }

  /// Whether operations on the stream still run.
  static void expect_usable() {
    EXPECT_FALSE(is_capturing());
    EXPECT_EQ(add(ones({3}, DType::f32, kGpu), 1.0).to_vector<float>(),
              (std::vector<float>{2, 2, 2}));
  }
  static int64_t allocated() { return allocator(kGpu).stats().allocated; }
};

Tensor chain(const Tensor& x, const Tensor& weight) {
  const Tensor scores = softmax(matmul(exp(mul(x, 0.5)), weight), -1);
  return add(matmul(scores, weight.transpose(0, 1)), x);
}

TEST_F(CudaGraph, RepeatsAChainOfOperationsOnNewInput) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    Tensor x = random_tensor({65, 48}, dtype, 1).to(kGpu);
    const Tensor weight = random_tensor({48, 96}, dtype, 2).to(kGpu);
    chain(x, weight);
    Graph graph(kGpu);
    Tensor y;
    graph.capture([&] { y = chain(x, weight); });
    EXPECT_TRUE(graph.captured());
    EXPECT_GE(graph.nodes(), 6);
    for (uint64_t seed = 3; seed < 6; ++seed) {
      const Tensor next = random_tensor({65, 48}, dtype, seed).to(kGpu);
      const Tensor expected = chain(next, weight);
      x.copy_(next);
      graph.replay();
      expect_same(y, expected.to(kCpu), "replayed");
    }
  }
}

TEST_F(CudaGraph, RepeatsATrainingStep) {
  const auto variable = [](const Shape& shape, uint64_t seed) {
    return Variable(random_tensor(shape, DType::f32, seed).to(kGpu), true);
  };
  Variable up = variable({128, 48}, 1), down = variable({48, 128}, 2), scale = variable({48}, 3);
  Tensor x = random_tensor({33, 48}, DType::f32, 4).to(kGpu);
  std::vector<Variable> parameters{up, down, scale};
  Tensor loss;
  const auto step = [&] {
    for (Variable& parameter : parameters) parameter.zero_grad();
    const Variable hidden = silu(linear(rms_norm(Variable(x), scale), up));
    const Variable total = mean(linear(hidden, down));
    total.backward();
    loss = total.data();
  };
  const auto descend = [&] {
    for (Variable& parameter : parameters) {
      Tensor data = parameter.data();
      add_(data, mul(parameter.grad(), -0.5));
    }
  };
  step();
  std::vector<Tensor> start;
  for (const Variable& parameter : parameters) start.push_back(parameter.data().clone());
  const auto rewind = [&] {
    for (size_t i = 0; i < parameters.size(); ++i) {
      Tensor data = parameters[i].data();
      data.copy_(start[i]);
    }
  };

  std::vector<std::vector<double>> losses(2);
  for (uint64_t seed = 5; seed < 10; ++seed) {
    x.copy_(random_tensor({33, 48}, DType::f32, seed).to(kGpu));
    step();
    descend();
    losses[0].push_back(loss.item<double>());
  }
  std::vector<Tensor> expected;
  for (const Variable& parameter : parameters) expected.push_back(parameter.data().to(kCpu));

  rewind();
  Graph graph(kGpu);
  graph.capture([&] {
    step();
    descend();
  });
  rewind();  // what is captured is not run
  for (uint64_t seed = 5; seed < 10; ++seed) {
    x.copy_(random_tensor({33, 48}, DType::f32, seed).to(kGpu));
    graph.replay();
    losses[1].push_back(loss.item<double>());
  }
  EXPECT_EQ(losses[0], losses[1]);
  for (size_t i = 0; i < parameters.size(); ++i) {
    SCOPED_TRACE(i);
    expect_same(parameters[i].data(), expected[i], "parameter");
  }
}

TEST_F(CudaGraph, TakesNoMemoryWhenReplayed) {
  Tensor x = random_tensor({64, 48}, DType::f32, 1).to(kGpu);
  const Tensor weight = random_tensor({48, 96}, DType::f32, 2).to(kGpu);
  chain(x, weight);
  const int64_t before = allocated();
  Graph graph(kGpu);
  Tensor y;
  graph.capture([&] { y = chain(x, weight); });
  const AllocatorStats captured = allocator(kGpu).stats();
  for (int i = 0; i < 100; ++i) graph.replay();
  current_stream(kGpu).synchronize();
  EXPECT_EQ(allocator(kGpu).stats().allocated, captured.allocated);
  EXPECT_EQ(allocator(kGpu).stats().reserved, captured.reserved);
  EXPECT_EQ(allocator(kGpu).stats().count, captured.count);

  const Tensor expected = y.to(kCpu);
  graph.release();
  EXPECT_FALSE(graph.captured());
  for (int i = 0; i < 10; ++i) chain(weight.transpose(0, 1).contiguous(), weight);
  expect_same(y, expected, "after its graph");
  y = {};
  EXPECT_EQ(allocated(), before);
  allocator(kGpu).empty_cache();
  EXPECT_LT(allocator(kGpu).stats().reserved, captured.reserved);
}

TEST_F(CudaGraph, LeavesOtherGraphsAlone) {
  Tensor x = random_tensor({40, 48}, DType::f32, 1).to(kGpu);
  const Tensor weight = random_tensor({48, 96}, DType::f32, 2).to(kGpu);
  chain(x, weight);
  mul(x, 3.0);
  Graph first(kGpu);
  Graph second(kGpu);
  Tensor y, z;
  first.capture([&] { y = chain(x, weight); });
  second.capture([&] { z = mul(chain(x, weight), 3.0); });
  for (uint64_t seed = 3; seed < 6; ++seed) {
    x.copy_(random_tensor({40, 48}, DType::f32, seed).to(kGpu));
    const Tensor expected = chain(x, weight);
    second.replay();
    first.replay();
    expect_same(y, expected.to(kCpu), "the first");
    expect_same(z, mul(expected, 3.0).to(kCpu), "the second");
  }
  Graph moved = std::move(first);
  second.release();
  x.copy_(random_tensor({40, 48}, DType::f32, 7).to(kGpu));
  moved.replay();
  expect_same(y, chain(x, weight).to(kCpu), "the first, moved, without the second");
}

TEST_F(CudaGraph, ReplacesWhatItHeld) {
  const Tensor x = ones({100}, DType::f32, kGpu);
  Graph graph(kGpu);
  Tensor y;
  graph.capture([&] { y = mul(x, 2.0); });
  graph.capture([&] { y = mul(x, 5.0); });
  graph.replay();
  EXPECT_EQ(y.to_vector<float>(), std::vector<float>(100, 5.0f));
}

TEST_F(CudaGraph, SaysWhatCannotBeCaptured) {
  const Tensor x = ones({4}, DType::f32, kGpu);
  const Tensor on_cpu = ones({4});
  Event event(kGpu, /*timed=*/true);
  event.record(current_stream(kGpu));
  struct Refused {
    const char* what;
    std::function<void()> work;
  };
  const std::vector<Refused> cases{
      {"stream: synchronize()", [&] { current_stream(kGpu).synchronize(); }},
      {"event: synchronize()", [&] { event.synchronize(); }},
      {"event: milliseconds_to()", [&] { event.milliseconds_to(event); }},
      {"item()", [&] { x.select(0, 0).item<float>(); }},
      {"to_vector()", [&] { x.to_vector<float>(); }},
      {"to the CPU", [&] { x.to(kCpu); }},
      {"[4] f32 cpu to cuda:0", [&] { on_cpu.to(kGpu); }},
      {"inside the capture", [&] { Graph(kGpu).capture([] {}); }},
  };
  const int64_t before = allocated();
  for (const Refused& refused : cases) {
    SCOPED_TRACE(refused.what);
    Graph graph(kGpu);
    try {
      graph.capture([&] {
        const Tensor y = mul(x, 2.0);
        refused.work();
      });
      ADD_FAILURE() << "no error";
    } catch (const CaptureError& error) {
      EXPECT_NE(std::string(error.what()).find(refused.what), std::string::npos) << error.what();
    }
    EXPECT_FALSE(graph.captured());
    expect_usable();
    EXPECT_EQ(allocated(), before);
    Tensor y;
    graph.capture([&] { y = mul(x, 2.0); });
    graph.replay();
    EXPECT_EQ(y.to_vector<float>(), std::vector<float>(4, 2.0f));
  }
}

TEST_F(CudaGraph, SaysWhatBrokeIt) {
  // Waits for work of another stream that the graph does not have.
  SideStream side(kGpu);
  Event event(kGpu);
  event.record(side.stream());
  Graph graph(kGpu);
  EXPECT_THROW(graph.capture([&] { event.make_wait(current_stream(kGpu)); }), CaptureError);
  expect_usable();
}

TEST_F(CudaGraph, PassesErrorsOfItsWorkOn) {
  Graph graph(kGpu);
  const Tensor x = ones({4}, DType::f32, kGpu);
  EXPECT_THROW(graph.capture([&] { add(x, ones({3}, DType::f32, kGpu)); }), ShapeError);
  EXPECT_THROW(graph.capture([] { throw 7; }), int);
  EXPECT_FALSE(graph.captured());
  expect_usable();
}

TEST_F(CudaGraph, ReadsPageLockedMemoryAgain) {
  Tensor host = empty_pinned({1000});
  host.fill_(1);
  Tensor on_gpu = empty({1000}, DType::f32, kGpu);
  Tensor y;
  Graph graph(kGpu);
  graph.capture([&] {
    on_gpu.copy_(host);
    y = mul(on_gpu, 2.0);
  });
  float* const values = host.data<float>();
  for (const float value : {3.0f, 4.0f}) {
    host.fill_(value);
    graph.replay();
    EXPECT_EQ(y.to_vector<float>(), std::vector<float>(1000, 2 * value));
  }
  host = {};
  const Tensor other = empty_pinned({1000});
  EXPECT_NE(other.raw_data(), values);  // the graph keeps what it reads
}

TEST_F(CudaGraph, ReportsBadIndicesOfAReplay) {
  const Tensor table = random_tensor({10, 8}, DType::f32, 1).to(kGpu);
  Tensor ids = full({6}, 2, DType::i64, kGpu);
  Tensor picked, columns, lines, sums;
  const auto work = [&] {
    picked = embedding(table, ids);
    columns = gather(table, 1, ids.view({6, 1}));
    lines = index_select(table, 0, ids);
    sums = embedding_backward(picked, ids, 10);
  };
  work();
  Graph graph(kGpu);
  graph.capture(work);
  graph.replay();
  expect_same(picked, lines.to(kCpu), "good indices");
  for (const int64_t bad : {10, -1}) {
    ids.fill_(static_cast<double>(bad));
    graph.replay();
    EXPECT_THROW(current_stream(kGpu).synchronize(), IndexError) << bad;
    ids.fill_(2);
    graph.replay();
    expect_same(picked, lines.to(kCpu), "good indices again");
  }
}

TEST_F(CudaGraph, LetsOtherThreadsWork) {
  const Tensor x = ones({100}, DType::f32, kGpu);
  Tensor y;
  Graph graph(kGpu);
  graph.capture([&] {
    y = mul(x, 2.0);
    std::thread loader([] {
      EXPECT_FALSE(is_capturing());
      SideStream side(kGpu);
      const StreamGuard guard(side.stream());
      Tensor batch = empty_pinned({1 << 20});
      batch.fill_(1);
      EXPECT_EQ(batch.to(kGpu).slice(0, 0, 1).item<float>(), 1.0f);
    });
    loader.join();
    y = add(y, 1.0);
  });
  graph.replay();
  EXPECT_EQ(y.to_vector<float>(), std::vector<float>(100, 3.0f));
}

}  // namespace
}  // namespace weft
