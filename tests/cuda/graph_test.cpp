// Work captured as a graph and replayed does what it does when it runs at once.
#include "weft/tensor/graph.h"

#include <thread>

#include "weft/autograd/functions/activation.h"
#include "weft/autograd/functions/linear.h"
#include "weft/autograd/functions/reduce.h"
#include "weft/autograd/functions/rms_norm.h"
#include "weft/tensor/allocator.h"
#include "weft/tensor/ops/arithmetic.h"
#include "weft/tensor/ops/dropout.h"
#include "weft/tensor/ops/embedding.h"
#include "weft/tensor/ops/gather.h"
#include "weft/tensor/ops/matmul.h"
#include "weft/tensor/ops/random.h"
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
  Generator stranger(7), known(8);
  known.reserve(3);
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
      {"dropout: every replay", [&] { dropout(x, 0.5, stranger); }},
      {"normal_: every replay", [&] { normal({4}, stranger, DType::f32, kGpu); }},
      {"randint_: every replay", [&] { randint(0, 9, {4}, stranger, DType::i64, kGpu); }},
      {"uniform_: every replay", [&] { uniform({4}, known); }},
      {"permutation: is made on the host", [&] { permutation(4, known, kGpu); }},
      {"state from outside",
       [&] {
         known.set_state({1, 0});
       }},
      {"bernoulli_: every replay",
       [&] {
         known.set_state({1, 0});
         bernoulli(0.5, {4}, known, DType::boolean, kGpu);
       }},
  };
  const int64_t before = allocated();
  for (const Refused& refused : cases) {
    SCOPED_TRACE(refused.what);
    Graph graph(kGpu);
    try {
      graph.capture(
          [&] {
            const Tensor y = mul(x, 2.0);
            known.reserve(1);
            refused.work();
          },
          {&known});
      ADD_FAILURE() << "no error";
    } catch (const CaptureError& error) {
      EXPECT_NE(std::string(error.what()).find(refused.what), std::string::npos) << error.what();
    }
    EXPECT_FALSE(graph.captured());
    expect_usable();
    EXPECT_EQ(allocated(), before);
    EXPECT_EQ(stranger.state().offset, 0u);
    EXPECT_EQ(known.state().offset, 3u);
    EXPECT_EQ(known.state().advance, nullptr);
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

/// Everything that can be drawn in a graph, of all kinds of layouts.
std::vector<Tensor> draw_everything(Generator& generator, Device device) {
  std::vector<Tensor> drawn;
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16, DType::f64}) {
    drawn.push_back(uniform({1003}, generator, dtype, device));
    drawn.push_back(normal({61, 33}, generator, dtype, device));
    drawn.push_back(bernoulli(0.3, {77}, generator, dtype, device));
    drawn.push_back(dropout(ones({33, 65}, dtype, device), 0.4, generator));
    drawn.push_back(dropout(ones({24, 40}, dtype, device).slice(1, 1, 30), 0.4, generator));
    Tensor wide = zeros({9, 40}, dtype, device);
    Tensor columns = wide.slice(1, 3, 30);
    uniform_(columns, -1, 1, generator);
    drawn.push_back(wide);
  }
  drawn.push_back(bernoulli(0.5, {100}, generator, DType::boolean, device));
  for (const DType dtype : {DType::i64, DType::i32, DType::u8})
    drawn.push_back(randint(3, 200, {501}, generator, dtype, device));
  return drawn;
}

TEST_F(CudaGraph, DrawsWhatItsWorkWouldDraw) {
  // Far along the stream, so that the sum of offsets carries into the upper half of the counter.
  const GeneratorState start{(uint64_t{7} << 33) + 5, (uint64_t{1} << 32) - 9000};
  Generator on_gpu, on_cpu;
  on_gpu.set_state(start);
  on_cpu.set_state(start);
  draw_everything(on_gpu, kGpu);
  const auto step = static_cast<int64_t>(on_gpu.state().offset - start.offset);
  draw_everything(on_cpu, kCpu);
  Graph graph(kGpu);
  std::vector<Tensor> drawn;
  graph.capture([&] { drawn = draw_everything(on_gpu, kGpu); }, {&on_gpu});
  EXPECT_EQ(on_gpu.state().offset, on_cpu.state().offset) << "a capture draws nothing";
  EXPECT_EQ(on_gpu.state().advance, nullptr);
  ASSERT_LT(step, 9000);
  std::vector<double> last;
  for (int replay = 0; replay < 6; ++replay) {
    SCOPED_TRACE(::testing::Message() << "replay " << replay);
    if (replay == 2) {  // others draw in between
      expect_same(normal({999}, on_gpu, DType::f32, kGpu), normal({999}, on_cpu), "in between");
    }
    if (replay == 4) {  // back to a state that was saved before the capture
      on_gpu.set_state(start);
      on_cpu.set_state(start);
    }
    if (replay == 5) {  // two in a row without waiting, of which the results are the second's
      graph.replay();
      draw_everything(on_cpu, kCpu);
    }
    graph.replay();
    const std::vector<Tensor> expected = draw_everything(on_cpu, kCpu);
    EXPECT_EQ(on_gpu.state().offset, on_cpu.state().offset);
    ASSERT_EQ(drawn.size(), expected.size());
    for (size_t i = 0; i < drawn.size(); ++i) {
      SCOPED_TRACE(i);
      expect_same(drawn[i], expected[i], "drawn");
    }
    const std::vector<double> mask = drawn[3].to_vector<double>();
    EXPECT_NE(mask, last) << "the mask of the replay before";
    last = mask;
  }
}

TEST_F(CudaGraph, DrawsFromStreamsThatGraphsShare) {
  Generator on_gpu(3), on_cpu(3), other_on_gpu(3), other_on_cpu(3);
  const Tensor x = ones({200}, DType::f32, kGpu), x_on_cpu = ones({200});
  Tensor y, z, w;
  Graph first(kGpu), second(kGpu);
  first.capture([&] { y = dropout(x, 0.5, on_gpu); }, {&on_gpu});
  first.replay();
  expect_same(y, dropout(x_on_cpu, 0.5, on_cpu), "the first");
  second.capture(
      [&] {
        z = dropout(dropout(x, 0.1, on_gpu), 0.5, on_gpu);
        w = dropout(x, 0.5, other_on_gpu);
      },
      {&other_on_gpu, &on_gpu});
  for (int replay = 0; replay < 3; ++replay) {
    second.replay();
    first.replay();
    expect_same(z, dropout(dropout(x_on_cpu, 0.1, on_cpu), 0.5, on_cpu), "the second");
    expect_same(w, dropout(x_on_cpu, 0.5, other_on_cpu), "the other stream of the second");
    expect_same(y, dropout(x_on_cpu, 0.5, on_cpu), "the first");
  }
}

TEST_F(CudaGraph, TakesMasksAgainFromStates) {
  // A state that the work has taken moves with the replays; one from outside means one mask.
  Generator on_gpu(3), on_cpu(3);
  const GeneratorState outside{3, 77};
  const Tensor x = ones({300}, DType::bf16, kGpu), x_on_cpu = ones({300}, DType::bf16);
  Tensor y, again, fixed;
  Graph graph(kGpu);
  graph.capture(
      [&] {
        const GeneratorState state = on_gpu.state();
        y = dropout(x, 0.5, on_gpu);
        again = dropout(x, 0.5, state);
        fixed = dropout(x, 0.5, outside);
      },
      {&on_gpu});
  for (int replay = 0; replay < 3; ++replay) {
    graph.replay();
    const Tensor expected = dropout(x_on_cpu, 0.5, on_cpu);
    expect_same(y, expected, "forward");
    expect_same(again, expected, "again");
    expect_same(fixed, dropout(x_on_cpu, 0.5, outside), "of a state from outside");
  }
}

TEST_F(CudaGraph, RefusesAnotherSeed) {
  Generator generator(3);
  const Tensor x = ones({300}, DType::f32, kGpu);
  Tensor y;
  Graph graph(kGpu);
  graph.capture([&] { y = dropout(x, 0.5, generator); }, {&generator});
  generator.set_state({4, 0});
  EXPECT_THROW(graph.replay(), CaptureError);
  EXPECT_EQ(generator.state().offset, 0u);
  generator.set_state({3, 20});
  graph.replay();
  expect_same(y, dropout(ones({300}), 0.5, GeneratorState{3, 20}), "the first seed again");
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
