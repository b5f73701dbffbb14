#include "weft/attention/kernels/decode_attention.h"

#include "weft/tensor/graph.h"
#include "weft/tensor/stream.h"

#include "attention_cuda_test_data.h"

namespace weft::attention {
namespace {

using testing::exact;
using testing::kernel_tolerance;
using testing::kGpu;
using testing::random_tensor;
using testing::relative_error;

class DecodeAttentionOnGpu : public testing::OnGpu {};

struct Case {
  int64_t batch, slots, cached;
  QkvSplit split;
  bool turned = true;
};

std::ostream& operator<<(std::ostream& stream, const Case& c) {
  return stream << "B " << c.batch << " slots " << c.slots << " cached " << c.cached << " H "
                << c.split.heads << " Hk " << c.split.kv_heads << " D " << c.split.head_dim;
}

std::vector<Case> cases() {
  std::vector<Case> all;
  // Lengths on both sides of tiles and parts, in a cache with room and in one that is full.
  for (const int64_t cached : {0, 1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 511, 1000, 8190})
    all.push_back({1, 8192, cached, {.heads = 4, .kv_heads = 4, .head_dim = 64}});
  for (const int64_t cached : {0, 1, 99, 100, 101, 250, 1000})  // a ring
    all.push_back({2, 100, cached, {.heads = 4, .kv_heads = 2, .head_dim = 64}});
  for (const int64_t dim : {8, 16, 32, 48, 64, 80, 96, 128, 256})
    all.push_back({2, 400, 333, {.heads = 4, .kv_heads = 2, .head_dim = dim}});
  for (const int64_t group : {1, 2, 3, 4, 7, 8, 12})
    all.push_back({1, 700, 640, {.heads = 2 * group, .kv_heads = 2, .head_dim = 64}});
  all.push_back({8, 300, 299, {.heads = 16, .kv_heads = 16, .head_dim = 64}});
  all.push_back({1, 300, 200, {.heads = 8, .kv_heads = 1, .head_dim = 128}, false});
  all.push_back({1, 2, 7, {.heads = 2, .kv_heads = 2, .head_dim = 64}});
  all.push_back({1, 1, 3, {.heads = 2, .kv_heads = 2, .head_dim = 64}});
  return all;
}

/// A cache that holds `cached` tokens and what a step needs beside it.
struct State {
  Tensor keys, values, position, table, packed;

  State(const Case& c, DType dtype) {
    const Shape shape{c.batch, c.split.kv_heads, c.slots, c.split.head_dim};
    keys = random_tensor(shape, dtype, 1);
    values = random_tensor(shape, dtype, 2);
    // What was not written must not be read.
    keys.slice(2, std::min(c.cached, c.slots), c.slots).fill_(NAN);
    values.slice(2, std::min(c.cached, c.slots), c.slots).fill_(NAN);
    position = full({1}, static_cast<double>(c.cached), DType::i64);
    const DType angles = dtype == DType::f64 ? DType::f64 : DType::f32;
    if (c.turned) table = rope_table(10000, c.split.head_dim, c.cached + 8, angles);
    packed = random_tensor({c.batch, c.split.width()}, dtype, 3);
  }

  State on(Device device) const {
    State moved = *this;
    for (Tensor* tensor : {&moved.keys, &moved.values, &moved.position, &moved.packed})
      *tensor = tensor->to(device);
    if (table.defined()) moved.table = table.to(device);
    return moved;
  }
};

TEST_F(DecodeAttentionOnGpu, AgreesWithTheCpu) {
  for (const Case& c : cases()) {
    for (const DType dtype : {DType::f32, DType::bf16, DType::f16, DType::f64}) {
      for (const bool settled : {false, true}) {
        SCOPED_TRACE(::testing::Message() << c << " " << to_string(dtype));
        State on_cpu(c, dtype);
        State on_gpu = on_cpu.on(kGpu);
        const DecodeScratch none(c.batch, c.slots, c.split, dtype, kCpu);
        const DecodeScratch scratch(c.batch, c.slots, c.split, dtype, kGpu);
        // Twice, as scratch has to be left as it was found.
        for (int step = 0; step < 2; ++step) {
          // The CPU computes in f64 with rotated heads rounded as the GPU's are.
          const Tensor expected =
              decode_attention(on_cpu.packed, c.split, on_cpu.keys, on_cpu.values, on_cpu.position,
                               on_cpu.table, none);
          current_stream(kGpu).synchronize();  // what is settled has been written
          const Tensor o = decode_attention(on_gpu.packed, c.split, on_gpu.keys, on_gpu.values,
                                            on_gpu.position, on_gpu.table, scratch, settled);
          EXPECT_LE(relative_error(o, expected), 2 * kernel_tolerance(dtype)) << "step " << step;
          on_cpu.position.fill_(static_cast<double>(c.cached + 1));
          on_gpu.position.fill_(static_cast<double>(c.cached + 1));
        }
        const int64_t kept = std::min(c.cached + 2, c.slots);
        const double unit = dtype == DType::f64 ? 1e-14 : kernel_tolerance(dtype);
        EXPECT_LE(relative_error(on_gpu.keys.slice(2, 0, kept), on_cpu.keys.slice(2, 0, kept)),
                  unit);
        EXPECT_LE(relative_error(on_gpu.values.slice(2, 0, kept), on_cpu.values.slice(2, 0, kept)),
                  0);
      }
    }
  }
}

TEST_F(DecodeAttentionOnGpu, AGraphFollowsThePosition) {
  const Case c{1, 500, 0, {.heads = 8, .kv_heads = 4, .head_dim = 64}};
  State eager = State(c, DType::f32), replayed = State(c, DType::f32);
  eager.table = rope_table(10000, 64, c.slots);
  replayed.table = eager.table;
  eager = eager.on(kGpu);
  replayed = replayed.on(kGpu);
  const DecodeScratch scratch(1, c.slots, c.split, DType::f32, kGpu);
  const auto step = [&](State& state, bool settled) {
    return decode_attention(state.packed, c.split, state.keys, state.values, state.position,
                            state.table, scratch, settled);
  };
  step(replayed, false);  // once before the capture
  Graph graph(kGpu);
  Tensor o;
  graph.capture([&] { o = step(replayed, true); });
  for (int64_t t = 0; t < c.slots; ++t) {
    const Tensor packed =
        random_tensor({1, c.split.width()}, DType::f32, static_cast<uint64_t>(t)).to(kGpu);
    for (State* state : {&eager, &replayed}) {
      state->packed.copy_(packed);
      state->position.fill_(static_cast<double>(t));
    }
    const Tensor expected = step(eager, false);
    graph.replay();
    ASSERT_TRUE(testing::same_bits_on_gpu(o, expected)) << "token " << t;
  }
}

}  // namespace
}  // namespace weft::attention
