#include "weft/tensor/ops/rope.h"

#include "weft/tensor/error.h"
#include "weft/tensor/stream.h"

#include "close_bounds.h"

namespace weft {
namespace {

using test::expect_rounded;
using test::in_all_layouts;
using test::kFloating;
using test::mirrored;
using test::random_tensor;

class CudaRope : public test::CudaTest {};

void expect_rope(const Tensor& x, const RopeOptions& options) {
  expect_rounded(rope(mirrored(x), options), rope(x, options), "rope");
  expect_rounded(rope_backward(mirrored(x), options), rope_backward(x, options), "rope_backward");
  Tensor on_cpu = x.clone();
  Tensor on_gpu = mirrored(on_cpu);
  rope_(on_cpu, options);
  rope_(on_gpu, options);
  expect_rounded(on_gpu, on_cpu, "rope_");
}

TEST_F(CudaRope, EqualsTheCpuForAllHeadsAndChannels) {
  for (const DType dtype : kFloating) {
    for (const int64_t channels : {2, 6, 8, 16, 64, 128, 192, 256}) {
      for (const int64_t heads : {1, 3, 4, 9, 25}) {
        const Tensor x = random_tensor({2, 7, heads, channels}, dtype, 1);
        expect_rope(x, {});
        expect_rope(x, {.offset = 5});
        expect_rope(x, {.offset = 5, .stride = 16});
        if (channels >= 6) expect_rope(x, {.rotary_begin = 1, .rotary_dim = 4});
        if (channels >= 64) expect_rope(x, {.rotary_begin = 16, .rotary_dim = 32});
      }
    }
  }
}

TEST_F(CudaRope, TakesEveryLayoutAndPositions) {
  for (const DType dtype : kFloating) {
    for (const Tensor& x : in_all_layouts(random_tensor({2, 5, 3, 32}, dtype, 1))) {
      expect_rope(x, {});
      const Tensor positions = from_vector<int64_t>({9, 0, 3, 3, 100}, {5});
      const Tensor expected = rope(x, {.positions = positions});
      expect_rounded(rope(mirrored(x), {.positions = mirrored(positions)}), expected, "positions");
      expect_rounded(rope(mirrored(x), {.positions = positions}), expected, "positions of the cpu");
    }
  }
}

TEST_F(CudaRope, ChecksPositionsThatItReadsOnTheGpu) {
  const Tensor x = random_tensor({1, 3, 2, 8}, DType::f32, 1);
  const Tensor table = rope_table(10000, 8, 10);
  const Tensor positions = from_vector<int64_t>({9, 0, 3}, {3});
  expect_rounded(rope(mirrored(x), {.positions = mirrored(positions), .table = mirrored(table)}),
                 rope(x, {.positions = positions, .table = table}), "positions and table");
  for (const int64_t bad : {10, -1}) {
    const Tensor outside = mirrored(from_vector<int64_t>({0, bad, 3}, {3}));
    rope(mirrored(x), {.positions = outside, .table = mirrored(table)});
    EXPECT_THROW(current_stream(test::kGpu).synchronize(), IndexError) << bad;
  }
}

TEST_F(CudaRope, TurnsPackedProjections) {
  const QkvSplit split{.heads = 4, .kv_heads = 2, .head_dim = 32};
  for (const DType dtype : kFloating) {
    Tensor packed = random_tensor({2, 9, split.width()}, dtype, 1);
    const auto turn_in_place = [](Tensor& projection) {
      Tensor both = projection.slice(2, 0, 6 * 32).view({2, 9, 6, 32});
      rope_(both);
    };
    Tensor in_place = packed.clone();
    Tensor in_place_gpu = mirrored(in_place);
    turn_in_place(in_place);
    turn_in_place(in_place_gpu);
    expect_rounded(in_place_gpu, in_place, "in place");
    const Qkv cpu = rope_qkv(packed, split);
    const Qkv gpu = rope_qkv(mirrored(packed), split);
    expect_rounded(gpu.q, cpu.q, "q");
    expect_rounded(gpu.k, cpu.k, "k");
    const Qkv grads{mirrored(cpu.q), mirrored(cpu.k), mirrored(cpu.v)};
    expect_rounded(rope_qkv_backward(grads, packed.shape(), dtype, split),
                   rope_qkv_backward(cpu, packed.shape(), dtype, split), "dpacked");
  }
}

}  // namespace
}  // namespace weft
