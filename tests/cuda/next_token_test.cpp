#include "weft/tensor/ops/next_token.h"

#include <cmath>

#include "weft/tensor/pinned.h"
#include "weft/tensor/stream.h"

#include "devices.h"

namespace weft {
namespace {

using test::kGpu;
using test::mirrored;
using test::random_tensor;

class CudaNextToken : public test::CudaTest {};

constexpr DType kFloating[] = {DType::f64, DType::f32, DType::bf16, DType::f16};

TokenState state_on(Device device, int64_t batch) {
  TokenState state;
  state.tokens = zeros({batch}, DType::i64, device);
  state.position = zeros({2}, DType::i64, device);
  state.history = empty_pinned({batch, 4}, DType::i64);
  state.history.fill_(-7);
  return state;
}

TEST_F(CudaNextToken, TakesWhatTheCpuTakes) {
  for (const DType dtype : kFloating) {
    for (const int64_t size : {1, 7, 31, 1000, 1024, 8191, 32000, 50257}) {
      for (const int64_t batch : {1, 3, 9}) {
        // Values of few bits, so that many are equal.
        Tensor logits = random_tensor({batch, size}, DType::i32, 5, -9, 9).to(dtype);
        if (size > 7) {
          logits.slice(1, 2, 3).fill_(NAN);
          logits.slice(1, 5, 6).fill_(INFINITY);
          logits.slice(0, 0, 1).slice(1, size - 1, size).fill_(20);
        }
        if (batch == 9) logits.slice(0, 4, 5).fill_(-INFINITY);
        TokenState on_cpu = state_on(kCpu, batch), on_gpu = state_on(kGpu, batch);
        for (const Tensor& x : {logits, test::with_gaps(logits)}) {
          for (const int64_t count : {size, std::max<int64_t>(1, size - 1)}) {
            const bool settled = count == size;
            take_largest(x, count, on_cpu);
            take_largest(mirrored(x), count, on_gpu, settled);
            test::expect_same(on_gpu.tokens, on_cpu.tokens, "tokens");
            test::expect_same(on_gpu.position, on_cpu.position, "position");
          }
        }
        current_stream(kGpu).synchronize();
        EXPECT_EQ(on_gpu.history.to_vector<int64_t>(), on_cpu.history.to_vector<int64_t>());
      }
    }
  }
}

TEST_F(CudaNextToken, ReadsRowsAsTheCpuDoes) {
  for (const DType from : kFloating) {
    for (const DType to : kFloating) {
      for (const int64_t width : {1, 33, 256, 1000}) {
        const Tensor table = random_tensor({20, width}, from, 1);
        const Tensor tokens = from_vector<int64_t>({0, 19, 7, 7, -1, 20}, {6});
        test::expect_same(token_rows(mirrored(table), mirrored(tokens), to),
                          token_rows(table, tokens, to), "rows");
      }
    }
  }
}

}  // namespace
}  // namespace weft
