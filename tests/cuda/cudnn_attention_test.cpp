#include "kernels/cudnn_attention.h"

#include <array>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include <cuda_runtime_api.h>

#include "weft/attention/attention_backend.h"
#include "weft/attention/kernels/flash_attention.h"
#include "weft/tensor/determinism.h"
#include "weft/tensor/ops/arithmetic.h"
#include "weft/tensor/ops/compare.h"
#include "weft/tensor/ops/matmul.h"
#include "weft/tensor/ops/reduce.h"
#include "weft/tensor/ops/softmax.h"

#include "cuda/allocator.h"
#include "devices.h"
#include "kernels/attention_arguments.h"
#include "message_of.h"
#include "reference/attention_reference.h"

namespace weft::attention {
namespace {

using test::kGpu;
using test::message_of;
using test::mirrored;
using test::random_tensor;

struct Case {
  int64_t batch, queries, keys, heads, kv_heads, dim, value_dim;
  FlashAttentionOptions options{};
  bool packed = false;  ///< q, k, v and their gradients are parts of larger tensors
};

void PrintTo(const Case& c, std::ostream* out) {
  *out << "B" << c.batch << " T" << c.queries << " S" << c.keys << " H" << c.heads << " Hk"
       << c.kv_heads << " D" << c.dim << " Dv" << c.value_dim
       << (c.options.causal ? " causal" : " full") << " window" << c.options.window
       << (c.packed ? " packed" : "");
}

/// Inputs on the CPU.
struct Data {
  Data(const Case& c, DType dtype)
      : q(random_tensor({c.batch, c.queries, c.heads, c.dim}, dtype, 1)),
        k(random_tensor({c.batch, c.keys, c.kv_heads, c.dim}, dtype, 2)),
        v(random_tensor({c.batch, c.keys, c.kv_heads, c.value_dim}, dtype, 3)),
        dout(random_tensor({c.batch, c.queries, c.heads, c.value_dim}, dtype, 4)) {
    if (!c.packed) return;
    const int64_t all = c.heads + 2 * c.kv_heads;
    Tensor rows = empty({c.batch, c.queries, all, c.dim}, dtype);
    Tensor parts[] = {rows.slice(2, 0, c.heads), rows.slice(2, c.heads, c.heads + c.kv_heads),
                      rows.slice(2, c.heads + c.kv_heads, all)};
    parts[0].copy_(q);
    parts[1].copy_(k);
    parts[2].copy_(v);
    q = parts[0];
    k = parts[1];
    v = parts[2];
  }
  Tensor q, k, v, dout;
};

/// o, dq, dk, dv.
using Results = std::array<Tensor, 4>;
constexpr std::array<const char*, 4> kResultNames = {"o", "dq", "dk", "dv"};

Results exact(const Data& x, const FlashAttentionOptions& options) {
  const auto grads = reference::attention_backward(x.dout, x.q, x.k, x.v, options);
  return {reference::attention_forward(x.q, x.k, x.v, options).o, grads.dq, grads.dk, grads.dv};
}

/// The textbook's steps, each rounded to the type of the inputs: the yardstick of errors.
Results naive(const Data& x, const Case& c) {
  const int64_t group = c.heads / c.kv_heads;
  const auto by_heads = [&](const Tensor& rows) {
    const Shape& s = rows.shape();
    return rows.permute({0, 2, 1, 3})
        .contiguous()
        .view({s[0], c.kv_heads, s[2] / c.kv_heads, s[1], s[3]});
  };
  const auto by_tokens = [&](const Tensor& heads) {
    const Shape& s = heads.shape();
    return heads.contiguous().view({s[0], s[1] * s[2], s[3], s[4]}).permute({0, 2, 1, 3});
  };
  const auto of_group = [&](const Tensor& heads) {
    return by_tokens(group == 1 ? heads : sum(heads, {2}, true));
  };
  std::vector<float> hidden;
  for (int64_t t = 0; t < c.queries; ++t) {
    const int64_t position = c.keys - c.queries + t;
    for (int64_t s = 0; s < c.keys; ++s) {
      const bool seen = (!c.options.causal || s <= position) &&
                        (c.options.window == 0 || s > position - c.options.window);
      hidden.push_back(seen ? 0 : -std::numeric_limits<float>::infinity());
    }
  }
  const Tensor mask = from_vector(hidden, {c.queries, c.keys}).to(x.q.dtype());
  const double scale = 1 / std::sqrt(static_cast<double>(c.dim));
  const Tensor q = by_heads(x.q), k = by_heads(x.k), v = by_heads(x.v), dout = by_heads(x.dout);
  const Tensor weights = softmax(add(mul(matmul(q, k.transpose(-1, -2)), scale), mask));
  const Tensor o = matmul(weights, v);
  const Tensor centred = sub(matmul(dout, v.transpose(-1, -2)), sum(mul(dout, o), {-1}, true));
  const Tensor d_scores = mul(mul(weights, centred), scale);
  return {by_tokens(o), by_tokens(matmul(d_scores, k)),
          of_group(matmul(d_scores.transpose(-1, -2), q)),
          of_group(matmul(weights.transpose(-1, -2), dout))};
}

double distance(const Tensor& a, const Tensor& b) {
  const std::vector<double> x = a.to_vector<double>(), y = b.to_vector<double>();
  double sum = 0;
  for (size_t i = 0; i < x.size(); ++i) sum += (x[i] - y[i]) * (x[i] - y[i]);
  return std::sqrt(sum / static_cast<double>(x.size()));
}

double largest(const Tensor& a, const Tensor& b) {
  const std::vector<double> x = a.to_vector<double>(), y = b.to_vector<double>();
  double largest = 0;
  for (size_t i = 0; i < x.size(); ++i) largest = std::fmax(largest, std::fabs(x[i] - y[i]));
  return largest;
}

/// Runs everything by one backend for a scope.
struct BackendScope {
  explicit BackendScope(AttentionBackend backend) { set_attention_backend(backend); }
  ~BackendScope() {
    set_attention_backend(AttentionBackend::automatic);
    set_attention_listener({});
    set_deterministic(false);
  }
};

class CudnnAttentionTest : public test::CudaTest {};
/// A problem and who computes it.
struct BackendCase {
  AttentionBackend backend;
  Case problem;
};

void PrintTo(const BackendCase& c, std::ostream* out) {
  *out << to_string(c.backend) << " ";
  PrintTo(c.problem, out);
}

class AttentionErrors : public test::CudaTest, public ::testing::WithParamInterface<BackendCase> {};

TEST_P(AttentionErrors, AreAtMostTwiceThoseOfTheNaiveComputation) {
  const Case& c = GetParam().problem;
  const BackendScope scope(GetParam().backend);
  for (const DType dtype : {DType::bf16, DType::f16}) {
    const Data x(c, dtype);
    const Tensor q = mirrored(x.q), k = mirrored(x.k), v = mirrored(x.v), dout = mirrored(x.dout);
    const auto out = flash_attention_forward(q, k, v, c.options);
    FlashAttentionGradients grads{mirrored(x.q.clone()), mirrored(x.k.clone()),
                                  mirrored(x.v.clone())};
    if (c.packed) {
      const int64_t all = c.heads + 2 * c.kv_heads;
      const Tensor rows = full({c.batch, c.queries, all, c.dim}, 7, dtype, kGpu);
      grads = {rows.slice(2, 0, c.heads), rows.slice(2, c.heads, c.heads + c.kv_heads),
               rows.slice(2, c.heads + c.kv_heads, all)};
    }
    flash_attention_backward_into(grads, dout, q, k, v, out.o, out.lse, c.options);

    const Results actual = {out.o, grads.dq, grads.dk, grads.dv};
    const Results expected = exact(x, c.options), yardstick = naive(x, c);
    for (size_t i = 0; i < actual.size(); ++i) {
      EXPECT_LE(distance(actual[i], expected[i]), 2 * distance(yardstick[i], expected[i]) + 1e-5)
          << kResultNames[i] << " " << to_string(dtype);
    }
    const Tensor lse = reference::attention_forward(x.q, x.k, x.v, c.options).lse;
    EXPECT_LE(largest(out.lse, lse), 2e-5) << to_string(dtype);
  }
}

std::vector<BackendCase> all_cases() {
  const std::vector<Case> problems = {{1, 256, 256, 8, 2, 64, 64},
                                      {2, 133, 133, 4, 4, 64, 64},
                                      {2, 133, 133, 8, 2, 64, 64, {}, true},
                                      {2, 60, 200, 4, 2, 64, 64},
                                      {1, 200, 200, 4, 2, 64, 64, {.window = 50}},
                                      {1, 70, 200, 4, 2, 64, 64, {.window = 40}},
                                      {1, 100, 100, 4, 4, 64, 64, {.window = 1}},
                                      {2, 60, 200, 4, 2, 64, 64, {.causal = false}},
                                      {1, 111, 111, 4, 2, 64, 64, {.causal = false, .window = 37}},
                                      {1, 150, 150, 4, 4, 128, 128},
                                      {1, 128, 128, 2, 2, 192, 128},
                                      {1, 100, 100, 4, 2, 256, 256},
                                      {1, 100, 100, 4, 2, 24, 24},
                                      {1, 100, 100, 4, 2, 96, 96},
                                      {2, 1, 1, 4, 4, 64, 64},
                                      {2, 1, 77, 4, 2, 64, 64},
                                      {2, 15, 63, 4, 1, 64, 64}};
  std::vector<BackendCase> cases;
  for (const AttentionBackend backend : {AttentionBackend::cudnn, AttentionBackend::weft}) {
    for (const Case& problem : problems) cases.push_back({backend, problem});
  }
  return cases;
}

INSTANTIATE_TEST_SUITE_P(All, AttentionErrors, ::testing::ValuesIn(all_cases()),
                         [](const auto& info) {
                           return to_string(info.param.backend) + std::to_string(info.index);
                         });

TEST_F(CudnnAttentionTest, GivesTheSameWithoutStatistics) {
  const Case c{1, 200, 200, 4, 2, 64, 64};
  const Data x(c, DType::bf16);
  const Tensor q = mirrored(x.q), k = mirrored(x.k), v = mirrored(x.v);
  const BackendScope scope(AttentionBackend::cudnn);
  const Tensor with = flash_attention_forward(q, k, v).o;

  FlashAttentionParams params = make_params("test", q, k, v, {});
  const FlashAttentionOutput out = make_output(params, kGpu);
  params.lse = nullptr;
  const cudnn::Handle handle(current_stream(kGpu));
  std::string refusal;
  const CudnnAttention* const plan = cudnn_attention_forward(params, 0, handle, &refusal);
  ASSERT_NE(plan, nullptr) << refusal;
  const Tensor workspace = empty({static_cast<int64_t>(plan->workspace_bytes())}, DType::u8, kGpu);
  plan->run(params, handle, workspace.raw_data());
  EXPECT_LE(largest(out.o, with), 1e-2);
  EXPECT_EQ(plan, cudnn_attention_forward(params, 0, handle));  // kept
}

TEST_F(CudnnAttentionTest, ReplaysFromAGraph) {
  const BackendScope scope(AttentionBackend::cudnn);
  const Case c{2, 160, 160, 4, 2, 64, 64};
  const Data first(c, DType::bf16);
  Tensor q = mirrored(first.q), k = mirrored(first.k), v = mirrored(first.v);
  const Tensor dout = mirrored(first.dout);
  const auto attend = [&] {
    const auto out = flash_attention_forward(q, k, v);
    const auto grads = flash_attention_backward(dout, q, k, v, out.o, out.lse);
    return Results{out.o, grads.dq, grads.dk, grads.dv};
  };
  attend();  // makes the plans
  cuda::GraphMemory memory(kGpu);
  SideStream side(kGpu);
  const auto stream = static_cast<cudaStream_t>(side.stream().native_handle());
  current_stream(kGpu).synchronize();
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  Results captured;
  {
    const StreamGuard guard(side.stream());
    attend();  // and the handle's choice of this stream
    side.stream().synchronize();
    memory.begin_capture(side.stream());
    ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
    captured = attend();
    ASSERT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
    memory.end_capture(side.stream());
  }
  ASSERT_EQ(cudaGraphInstantiate(&executable, graph, 0), cudaSuccess);
  for (const uint64_t seed : {11, 12}) {
    q.copy_(random_tensor(q.shape(), DType::bf16, seed));
    k.copy_(random_tensor(k.shape(), DType::bf16, seed + 10));
    v.copy_(random_tensor(v.shape(), DType::bf16, seed + 20));
    const Results expected = attend();
    current_stream(kGpu).synchronize();
    ASSERT_EQ(cudaGraphLaunch(executable, stream), cudaSuccess);
    side.stream().synchronize();
    for (size_t i = 0; i < captured.size(); ++i) {
      // Sums of gradients are added in an order that varies.
      EXPECT_LE(largest(captured[i], expected[i]), i == 0 ? 0 : 2e-2) << kResultNames[i];
    }
  }
  cudaGraphExecDestroy(executable);
  cudaGraphDestroy(graph);
}

TEST_F(CudnnAttentionTest, IsChosenForTrainingShapesAndSaysSoOnce) {
  const BackendScope scope(AttentionBackend::automatic);
  std::vector<AttentionChoice> choices;
  set_attention_listener([&](const AttentionChoice& choice) { choices.push_back(choice); });
  for (const int64_t length : {1024, 1024, 1280}) {
    const Tensor x = ones({1, length, 8, 64}, DType::bf16, kGpu);
    flash_attention_forward(x, x, x);
  }
  ASSERT_EQ(choices.size(), 1u);
  EXPECT_EQ(choices[0].backend, AttentionBackend::cudnn);
  EXPECT_EQ(choices[0].problem, "flash_attention bf16, 8 heads of 64 over 8, causal, on cuda:0");
  EXPECT_EQ(choices[0].reason, cudnn::version());
}

TEST_F(CudnnAttentionTest, SaysWhyItDoesNotRun) {
  const BackendScope scope(AttentionBackend::cudnn);
  const Tensor x = ones({1, 32, 2, 8}, DType::f32, kGpu);
  const std::string message =
      message_of<NotImplementedError>([&] { flash_attention_forward(x, x, x); });
  EXPECT_NE(message.find("takes bf16 or f16, got f32"), std::string::npos) << message;

  const Tensor y = ones({1, 32, 2, 64}, DType::bf16, kGpu);
  const auto out = flash_attention_forward(y, y, y);
  set_deterministic(true);
  const std::string ban = message_of<NotImplementedError>(
      [&] { flash_attention_backward(y, y, y, y, out.o, out.lse); });
  EXPECT_NE(ban.find("results must repeat"), std::string::npos) << ban;
}

/// A problem that cuDNN takes; no kernel looks at its pointers.
FlashAttentionBackwardParams plain_problem() {
  FlashAttentionBackwardParams p;
  p.dtype = DType::bf16;
  p.batch = 2;
  p.queries = p.keys = 128;
  p.heads = 4;
  p.kv_heads = 2;
  p.dim = p.value_dim = 64;
  p.scale = 0.125;
  alignas(16) static std::array<std::byte, 64> memory;
  const auto view = [&](int64_t heads) {
    return HeadsView{memory.data(), 128 * heads * 64, heads * 64, 64};
  };
  p.q = p.o = p.dout = p.dq = view(4);
  p.k = p.v = p.dk = p.dv = view(2);
  p.lse = memory.data();
  return p;
}

TEST(CudnnAttentionLimits, NameWhatIsNotTaken) {
  EXPECT_EQ(cudnn_attention_limits(plain_problem()), "");
  const auto expect_refused = [](const char* reason, auto&& change) {
    FlashAttentionBackwardParams p = plain_problem();
    change(p);
    EXPECT_NE(cudnn_attention_limits(p).find(reason), std::string::npos)
        << reason << ": " << cudnn_attention_limits(p);
  };
  using Params = FlashAttentionBackwardParams;
  expect_refused("bf16 or f16, got f32", [](Params& p) { p.dtype = DType::f32; });
  expect_refused("one token each", [](Params& p) { p.key_length = 16; });
  expect_refused("one token each", [](Params& p) { p.key_stride = 16; });
  expect_refused("got position 5", [](Params& p) { p.position = 5; });
  expect_refused("200 queries, 128 keys", [](Params& p) {
    p.queries = 200;
    p.position = -72;
  });
  expect_refused("empty", [](Params& p) { p.keys = p.queries = 0; });
  expect_refused("multiples of 8, got 20 and 64", [](Params& p) { p.dim = 20; });
  expect_refused("aligned to 16 bytes", [](Params& p) { p.q.row_stride += 1; });
  expect_refused("aligned to 16 bytes", [](Params& p) { p.v.batch_stride += 4; });
  expect_refused("aligned to 16 bytes",
                 [](Params& p) { p.dk.data = static_cast<std::byte*>(p.dk.data) + 2; });
  expect_refused("addresses of their own", [](Params& p) { p.dout.row_stride = 0; });
  // Without a mask it does not matter where queries stand.
  FlashAttentionBackwardParams p = plain_problem();
  p.causal = false;
  p.position = 5;
  EXPECT_EQ(cudnn_attention_limits(p), "");
}

TEST(CudnnAttentionPlans, DependOnEverythingButPointers) {
  const auto key = cudnn_plan_key(plain_problem(), 0);
  FlashAttentionBackwardParams moved = plain_problem();
  for (HeadsView* view : {&moved.q, &moved.k, &moved.v, &moved.o, &moved.dq, &moved.dout})
    view->data = static_cast<std::byte*>(view->data) + 16;
  EXPECT_EQ(cudnn_plan_key(moved, 0), key);
  EXPECT_NE(cudnn_plan_key(plain_problem(), 1), key);
  using Params = FlashAttentionBackwardParams;
  const std::vector<void (*)(Params&)> changes = {
      [](Params& p) { p.dtype = DType::f16; },
      [](Params& p) { ++p.batch; },
      [](Params& p) { ++p.queries; },
      [](Params& p) { ++p.keys; },
      [](Params& p) { ++p.heads; },
      [](Params& p) { ++p.kv_heads; },
      [](Params& p) { p.dim += 8; },
      [](Params& p) { p.value_dim += 8; },
      [](Params& p) { p.causal = false; },
      [](Params& p) { p.window = 3; },
      [](Params& p) { p.scale = 0.25; },
      [](Params& p) { p.lse = nullptr; },
      [](Params& p) { ++p.q.row_stride; },
      [](Params& p) { ++p.k.head_stride; },
      [](Params& p) { ++p.v.batch_stride; },
      [](Params& p) { ++p.o.row_stride; },
      [](Params& p) { ++p.dout.head_stride; },
      [](Params& p) { ++p.dq.batch_stride; },
      [](Params& p) { ++p.dk.row_stride; },
      [](Params& p) { ++p.dv.row_stride; },
  };
  for (size_t i = 0; i < changes.size(); ++i) {
    FlashAttentionBackwardParams p = plain_problem();
    changes[i](p);
    EXPECT_NE(cudnn_plan_key(p, 0), key) << i;
  }
}

}  // namespace
}  // namespace weft::attention
