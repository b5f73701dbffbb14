#include <cstdint>
#include <map>
#include <random>
#include <set>

#include "weft/tensor/allocator.h"
#include "weft/tensor/error.h"
#include "weft/tensor/memory_limit.h"
#include "weft/tensor/stream.h"
#include "weft/tensor/tensor.h"

#include "cuda/allocator.h"
#include "cuda/device_context.h"
#include "cuda/driver_trouble.h"
#include "cuda/index_math.h"
#include "cuda/probe.h"
#include "cuda/stream_heaps.h"
#include "devices.h"

namespace weft {
namespace {

using test::kGpu;

TEST(CudaDevices, GiveAReasonWhereTheyCannotBeUsed) {
  const Device absent{DeviceType::cuda, 63};
  EXPECT_FALSE(is_available(absent));
  EXPECT_FALSE(unavailable_reason(absent).empty());
  try {
    empty({1}, DType::f32, absent);
    FAIL() << "no error";
  } catch (const DeviceError& error) {
    EXPECT_NE(std::string(error.what()).find("cuda:63 is not available: "), std::string::npos)
        << error.what();
  }
  EXPECT_EQ(is_available(kGpu), unavailable_reason(kGpu).empty());
  EXPECT_LE(is_available(kGpu) ? 1 : 0, cuda_device_count());
}

TEST(CudaDevices, SayWhatIsWrongWithTheDriver) {
  EXPECT_EQ(cuda::driver_trouble(cudaErrorInsufficientDriver, 0, 13000),
            "there is no NVIDIA driver (one for CUDA 13.0 or later is needed)");
  const std::string too_old =
      "the NVIDIA driver is too old: it is for CUDA 12.4, and this build needs one for CUDA 13.0 "
      "or later";
  EXPECT_EQ(cuda::driver_trouble(cudaErrorInsufficientDriver, 12040, 13020), too_old);
  EXPECT_EQ(cuda::driver_trouble(cudaErrorNoDevice, 12040, 13020), too_old);
  EXPECT_EQ(cuda::driver_trouble(cudaErrorNoDevice, 13000, 13020),
            "there is no NVIDIA GPU, or CUDA_VISIBLE_DEVICES hides it");
  const std::string other = cuda::driver_trouble(cudaErrorUnknown, 13020, 13000);
  EXPECT_NE(other.find("the NVIDIA driver reports cudaErrorUnknown ("), std::string::npos) << other;
}

TEST(CudaErrors, NameTheCallItsDeviceAndItsPlace) {
  try {
    WEFT_CUDA_CHECK(cudaErrorInvalidValue);
    FAIL() << "no error";
  } catch (const CudaError& error) {
    const std::string text = error.what();
    EXPECT_EQ(text.find("cuda:"), 0u) << text;
    for (const char* const part : {"cudaErrorInvalidValue failed with cudaErrorInvalidValue (",
                                   ") at cuda/runtime_test.cpp:"})
      EXPECT_NE(text.find(part), std::string::npos) << text;
  }
}

TEST(CudaIndexMath, DividesByMultiplying) {
  std::mt19937 random(1);
  std::vector<uint32_t> divisors{
      1, 2, 3, 5, 7, 255, 256, 257, (1u << 30) - 1, 1u << 30, (1u << 31) - 1};
  for (int i = 0; i < 200; ++i) divisors.push_back(1 + random() % (1u << (1 + random() % 30)));
  for (const uint32_t divisor : divisors) {
    const cuda::FastDivisor fast(divisor);
    for (uint32_t n : {0u, 1u, divisor - 1, divisor, 2 * (divisor / 2) + 1, (1u << 31) - 1}) {
      n &= (1u << 31) - 1;
      ASSERT_EQ(fast.quotient(n), n / divisor) << n << " / " << divisor;
    }
    for (int i = 0; i < 200; ++i) {
      const uint32_t n = random() & ((1u << 31) - 1);
      ASSERT_EQ(fast.quotient(n), n / divisor) << n << " / " << divisor;
    }
  }
}

/// Offsets of all positions in row-major order, by plain loops.
std::vector<int64_t> naive_offsets(const Shape& shape, const Strides& strides) {
  std::vector<int64_t> offsets{0};
  for (int axis = 0; axis < shape.rank(); ++axis) {
    std::vector<int64_t> next;
    for (const int64_t offset : offsets) {
      for (int64_t i = 0; i < shape[axis]; ++i) next.push_back(offset + i * strides[axis]);
    }
    offsets = next;
  }
  return offsets;
}

struct Layouts {
  Shape shape;
  Strides a;
  Strides b;
};

TEST(CudaIndexMath, FindsEveryElementInPieces) {
  const Layouts cases[] = {
      {{6, 5, 4}, {20, 4, 1}, {20, 4, 1}},
      {{6, 5, 4}, {20, 4, 1}, {0, 1, 0}},
      {{6, 5, 4}, {1, 6, 30}, {40, 8, 2}},
      {{7}, {3}, {0}},
      {{2, 1, 3, 1, 5}, {15, 9, 5, 2, 1}, {100, 7, 10, 3, 1}},
      {{2, 2, 2, 2, 2, 2, 2, 2}, {1, 3, 9, 27, 81, 243, 729, 2187}, {128, 64, 32, 16, 8, 4, 2, 1}},
  };
  for (const auto& [shape, a, b] : cases) {
    const auto expected_a = naive_offsets(shape, a);
    const auto expected_b = naive_offsets(shape, b);
    for (const int64_t limit : {1, 2, 8, 64, 1 << 20}) {
      const StridedLoop<2> loop(shape, {a, b});
      int64_t seen = 0;
      cuda::for_each_piece<2>(
          loop, limit,
          [&](const StridedLoop<2>& piece, const std::array<int64_t, 2>& offsets, int64_t first) {
            EXPECT_LE(piece.shape.numel(), limit);
            EXPECT_EQ(first, seen);
            const cuda::IndexMap<2> map = cuda::index_map(piece, 1);
            for (int64_t i = 0; i < piece.shape.numel(); ++i, ++seen) {
              const auto at = map.offsets(static_cast<uint32_t>(i));
              EXPECT_EQ(at.of[0] + offsets[0], expected_a[static_cast<size_t>(seen)]);
              EXPECT_EQ(at.of[1] + offsets[1], expected_b[static_cast<size_t>(seen)]);
            }
          });
      EXPECT_EQ(seen, shape.numel());
    }
  }
}

TEST(CudaIndexMath, CountsInVectors) {
  const StridedLoop<2> loop({6, 8}, {Strides{16, 1}, Strides{1, 0}});
  EXPECT_TRUE(cuda::is_vectorizable<2>(loop, 4, {256, 4}, {4, 4}));
  EXPECT_FALSE(cuda::is_vectorizable<2>(loop, 4, {260, 4}, {4, 4}));  // the result is not aligned
  const cuda::IndexMap<2> map = cuda::index_map(loop, 4);
  for (uint32_t i = 0; i < 12; ++i) {
    EXPECT_EQ(map.offsets(i).of[0], i / 2 * 16 + i % 2 * 4);
    EXPECT_EQ(map.offsets(i).of[1], i / 2);
  }
  const StridedLoop<2> odd_rows({6, 8}, {Strides{17, 1}, Strides{8, 1}});
  EXPECT_FALSE(cuda::is_vectorizable<2>(odd_rows, 4, {256, 256}, {4, 4}));
  const StridedLoop<2> ragged({6, 7}, {Strides{8, 1}, Strides{8, 1}});
  EXPECT_FALSE(cuda::is_vectorizable<2>(ragged, 4, {256, 256}, {4, 4}));
  const StridedLoop<2> flat({7}, {Strides{1}, Strides{1}});
  EXPECT_TRUE(cuda::is_vectorizable<2>(flat, 4, {256, 256}, {4, 4}));  // with a tail
}

/// Addresses without memory. Each range has its own.
class FakePages final : public PageRange {
 public:
  explicit FakePages(size_t* available) : begin_(next_), available_(available) {
    next_ += size_t{1} << 32;
  }
  char* begin() const override { return reinterpret_cast<char*>(begin_); }
  size_t page_bytes() const override { return 4096; }
  size_t page_count() const override { return 1024; }
  bool commit(size_t, size_t count) override {
    if (count > *available_) return false;
    *available_ -= count;
    return true;
  }
  void decommit(size_t, size_t count) noexcept override { *available_ += count; }

 private:
  static inline uintptr_t next_ = uintptr_t{1} << 40;
  uintptr_t begin_;
  size_t* available_;
};

class StreamHeapsTest : public ::testing::Test {
 protected:
  void* stream(uintptr_t number) { return reinterpret_cast<void*>(number); }

  size_t available = 64;
  cuda::StreamHeaps heaps{[this] { return std::make_unique<FakePages>(&available); }, 256, 0};
};

TEST_F(StreamHeapsTest, UseABlockAgainOnItsStreamAlone) {
  void* const first = heaps.allocate(1000, stream(1));
  EXPECT_EQ(heaps.stream_of(first), stream(1));
  EXPECT_EQ(heaps.deallocate(first, stream(1)), 1024u);
  void* const other = heaps.allocate(1000, stream(2));
  EXPECT_NE(other, first);
  EXPECT_EQ(heaps.allocate(1000, stream(1)), first);
  heaps.deallocate(other, stream(2));
}

TEST_F(StreamHeapsTest, TakeFreePagesOfOtherStreams) {
  void* const first = heaps.allocate(60 * 4096, stream(1));
  EXPECT_EQ(heaps.allocate(60 * 4096, stream(2)), nullptr);
  heaps.deallocate(first, stream(1));
  EXPECT_EQ(heaps.committed_bytes(), 60u * 4096);
  EXPECT_NE(heaps.allocate(60 * 4096, stream(2)), nullptr);
  EXPECT_EQ(heaps.committed_bytes(), 60u * 4096);
}

TEST_F(StreamHeapsTest, KeepWhatAGraphUses) {
  void* const before = heaps.allocate(512, stream(1));
  cuda::StreamHeaps::Heap* const graph = heaps.open();
  heaps.begin_capture(graph, stream(1));
  void* const inside = heaps.allocate(512, stream(1));
  EXPECT_NE(inside, before);
  EXPECT_EQ(heaps.deallocate(before, stream(1)), 0u);  // replays read it
  EXPECT_EQ(heaps.deallocate(inside, stream(1)), 512u);
  void* const output = heaps.allocate(512, stream(1));
  EXPECT_EQ(output, inside);  // within the graph, in order
  heaps.end_capture(stream(1));

  void* const after = heaps.allocate(512, stream(1));
  EXPECT_NE(after, before);
  EXPECT_NE(after, inside);
  heaps.deallocate(output, stream(1));
  heaps.release_free_pages();
  EXPECT_EQ(heaps.committed_bytes(), 2u * 4096);  // the graph's page stays
  EXPECT_EQ(heaps.close(graph), 512u);
  EXPECT_EQ(heaps.committed_bytes(), 1u * 4096);
  EXPECT_EQ(heaps.allocate(512, stream(1)), before);
}

TEST_F(StreamHeapsTest, KeepAClosedGraphsMemoryForItsLastTensor) {
  cuda::StreamHeaps::Heap* const graph = heaps.open();
  heaps.begin_capture(graph, stream(1));
  void* const output = heaps.allocate(512, stream(1));
  heaps.end_capture(stream(1));
  EXPECT_EQ(heaps.close(graph), 0u);
  EXPECT_EQ(heaps.committed_bytes(), 4096u);
  EXPECT_EQ(heaps.deallocate(output, stream(1)), 512u);
  EXPECT_EQ(heaps.committed_bytes(), 0u);
}

TEST_F(StreamHeapsTest, StayWithinTheLimit) {
  cuda::StreamHeaps limited([this] { return std::make_unique<FakePages>(&available); }, 256,
                            4 * 4096);
  void* const first = limited.allocate(3 * 4096, stream(1));
  EXPECT_NE(first, nullptr);
  EXPECT_EQ(limited.allocate(2 * 4096, stream(2)), nullptr);
  EXPECT_NE(limited.allocate(4096, stream(2)), nullptr);
  limited.deallocate(first, stream(1));
  EXPECT_NE(limited.allocate(2 * 4096, stream(2)), nullptr);
}

class CudaCode : public test::CudaTest {};

TEST_F(CudaCode, IsOfTheArchitecturesThatTheBuildNames) {
  // What Hopper's kernels ask before they use what only it has.
  const int capability = cuda::device_context(kGpu).capability();
  const int code = cuda::code_capability(kGpu);
  EXPECT_GE(code, 80);
  EXPECT_LE(code, capability);
  const std::string built_for = WEFT_BUILT_FOR;
  if (capability == 90 && built_for.find("90") != std::string::npos) {
    EXPECT_EQ(code, 90) << built_for;
  }
  if (built_for == "80-virtual") {
    EXPECT_EQ(code, 80);
  }
}

class CudaMemory : public test::CudaTest {
 protected:
  cudaStream_t stream_handle() { return cuda::native(current_stream(kGpu)); }
};

TEST_F(CudaMemory, AlignsCountsAndReuses) {
  Allocator& memory = allocator(kGpu);
  const AllocatorStats before = memory.stats();
  const void* address = nullptr;
  {
    const Tensor x = empty({1001}, DType::f32, kGpu);
    address = x.raw_data();
    EXPECT_EQ(reinterpret_cast<uintptr_t>(address) % 256, 0u);
    EXPECT_GE(memory.stats().allocated, before.allocated + 4004);
    EXPECT_GE(memory.stats().reserved, memory.stats().allocated);
  }
  EXPECT_EQ(memory.stats().allocated, before.allocated);
  EXPECT_EQ(empty({1001}, DType::f32, kGpu).raw_data(), address);
  memory.empty_cache();
}

TEST_F(CudaMemory, SaysHowMuchIsMissing) {
  try {
    empty({int64_t{1} << 45}, DType::f32, kGpu);
    FAIL() << "no error";
  } catch (const OutOfMemoryError& error) {
    const std::string text = error.what();
    for (const char* part : {"cuda:0", "requested 131072.00 GiB", "free", "cached", "peak"})
      EXPECT_NE(text.find(part), std::string::npos) << text;
  }
  EXPECT_EQ(ones({3}, DType::f32, kGpu).to_vector<float>(), (std::vector<float>{1, 1, 1}));
}

TEST_F(CudaMemory, StaysWithinALimit) {
  const auto limited = cuda::make_cuda_allocator(kGpu, {.limit_bytes = size_t{64} << 20});
  const Stream stream = current_stream(kGpu);
  void* const half = limited->allocate(size_t{32} << 20, stream);
  EXPECT_THROW(limited->allocate(size_t{48} << 20, stream), OutOfMemoryError);
  limited->deallocate(half, size_t{32} << 20, stream);
  void* const most = limited->allocate(size_t{48} << 20, stream);
  limited->deallocate(most, size_t{48} << 20, stream);
  limited->empty_cache();
  EXPECT_EQ(limited->stats().reserved, 0);
}

TEST_F(CudaMemory, TakesALimitWhileItRuns) {
  Allocator& memory = allocator(kGpu);
  memory.empty_cache();
  set_cuda_memory_limit(kGpu, static_cast<size_t>(memory.stats().reserved) + (size_t{32} << 20));
  EXPECT_THROW(empty({1 << 24}, DType::f32, kGpu), OutOfMemoryError);
  set_cuda_memory_limit(kGpu, 0);
  EXPECT_EQ(ones({1 << 24}, DType::f32, kGpu).slice(0, 0, 1).item<float>(), 1.0f);
}

TEST_F(CudaMemory, KeepsBytesOfManySizes) {
  std::mt19937 random(3);
  struct Held {
    Tensor tensor;
    int value;
  };
  std::vector<Held> held;
  for (int step = 0; step < 300; ++step) {
    if (held.size() > 20) {
      const size_t i = random() % held.size();
      const std::vector<int32_t> values = held[i].tensor.to_vector<int32_t>();
      for (const int32_t value : values) ASSERT_EQ(value, held[i].value);
      held.erase(held.begin() + static_cast<std::ptrdiff_t>(i));
    }
    const int64_t size = 1 + static_cast<int64_t>(random() % (1u << (random() % 20)));
    held.push_back({full({size}, step, DType::i32, kGpu), step});
  }
}

TEST_F(CudaMemory, ServesAGraph) {
  const Tensor x = ones({1000}, DType::f32, kGpu);
  Tensor y;
  cuda::GraphMemory memory(kGpu);
  SideStream side(kGpu);
  current_stream(kGpu).synchronize();
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  {
    const StreamGuard guard(side.stream());
    memory.begin_capture(side.stream());
    ASSERT_EQ(cudaStreamBeginCapture(stream_handle(), cudaStreamCaptureModeThreadLocal),
              cudaSuccess);
    const Tensor doubled = x.to(DType::f64);
    y = doubled.to(DType::f32);
    ASSERT_EQ(cudaStreamEndCapture(stream_handle(), &graph), cudaSuccess);
    memory.end_capture(side.stream());
  }
  ASSERT_EQ(cudaGraphInstantiate(&executable, graph, 0), cudaSuccess);
  Tensor input = x;
  for (const double value : {3.0, 5.0}) {
    input.fill_(value);
    const Tensor noise = full({1000}, 77, DType::f32, kGpu);  // other memory than the graph's
    current_stream(kGpu).synchronize();
    ASSERT_EQ(cudaGraphLaunch(executable, stream_handle()), cudaSuccess);
    EXPECT_EQ(y.to_vector<double>(), std::vector<double>(1000, value));
    EXPECT_EQ(noise.to_vector<double>(), std::vector<double>(1000, 77));
  }
  cudaGraphExecDestroy(executable);
  cudaGraphDestroy(graph);
}

TEST_F(CudaMemory, TakesTimes) {
  Event start(kGpu, /*timed=*/true);
  Event stop(kGpu, /*timed=*/true);
  const Stream stream = current_stream(kGpu);
  start.record(stream);
  const Tensor x = ones({1 << 20}, DType::f32, kGpu);
  stop.record(stream);
  stop.synchronize();
  EXPECT_GT(start.milliseconds_to(stop), 0.0);
}

}  // namespace
}  // namespace weft
