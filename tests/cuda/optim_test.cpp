// The optimizers' kernels, each against the CPU's on the same lists of tensors.
#include "close_bounds.h"
#include "kernels/adamw.h"
#include "kernels/grad_norm.h"
#include "kernels/muon.h"
#include "kernels/sgd.h"

namespace weft::optim {
namespace {

using test::expect_close;
using test::kGpu;
using test::mirrored;
using test::random_tensor;

class CudaOptim : public test::CudaTest {};

constexpr DType kTypes[] = {DType::f64, DType::f32};

Stream gpu_stream() {
  return current_stream(kGpu);
}
Stream cpu_stream() {
  return current_stream(kCpu);
}

/// Sizes of lists: single elements, odd ones, whole vectors, several chunks; and more tensors than
/// one launch takes.
std::vector<std::vector<int64_t>> lists() {
  return {{1}, {1, 3, 4096, 8192, 8193, 100000}, std::vector<int64_t>(1100, 37), {0, 5, 0}};
}

/// Elements at a multiple of 16 bytes, or, for odd seeds of long lists, not.
Tensor values(int64_t size, DType dtype, uint64_t seed, double low = -2) {
  if (seed % 3 != 0) return random_tensor({size}, dtype, seed, low);
  return random_tensor({size + 1}, dtype, seed, low).slice(0, 1, size + 1);
}

double relative(DType dtype) {
  return dtype == DType::f64 ? 1e-13 : 4e-6;
}
double absolute(DType dtype) {
  return dtype == DType::f64 ? 1e-14 : 1e-6;
}

void expect_equal(const Tensor& on_gpu, const Tensor& on_cpu, const char* what) {
  expect_close(on_gpu, on_cpu, relative(on_cpu.dtype()), absolute(on_cpu.dtype()), what);
}

TEST_F(CudaOptim, StepsAdamW) {
  for (const DType dtype : kTypes) {
    for (const auto& sizes : lists()) {
      std::vector<AdamWItem> cpu;
      std::vector<AdamWItem> gpu;
      uint64_t seed = 0;
      for (const int64_t size : sizes) {
        const AdamWItem item{.parameter = values(size, dtype, ++seed),
                             .grad = values(size, dtype, ++seed),
                             .exp_avg = values(size, dtype, ++seed),
                             .exp_avg_sq = values(size, dtype, ++seed, 0),
                             .decay = 1 - 1e-4 * static_cast<double>(seed % 7),
                             .step_size = 1e-2,
                             .inv_sqrt_bias2 = 1.5};
        AdamWItem other = item;
        for (Tensor AdamWItem::*field : {&AdamWItem::parameter, &AdamWItem::grad,
                                         &AdamWItem::exp_avg, &AdamWItem::exp_avg_sq}) {
          other.*field = mirrored(item.*field);
        }
        cpu.push_back(item);
        gpu.push_back(other);
      }
      adamw_cpu({cpu, 0.9, 0.95, 1e-8, 0.5}, cpu_stream());
      adamw_cuda({gpu, 0.9, 0.95, 1e-8, 0.5}, gpu_stream());
      for (size_t i = 0; i < cpu.size(); ++i) {
        expect_equal(gpu[i].parameter, cpu[i].parameter, "parameter");
        expect_equal(gpu[i].exp_avg, cpu[i].exp_avg, "exp_avg");
        expect_equal(gpu[i].exp_avg_sq, cpu[i].exp_avg_sq, "exp_avg_sq");
      }
    }
  }
}

TEST_F(CudaOptim, StepsSgd) {
  for (const DType dtype : kTypes) {
    for (const bool momentum : {false, true}) {
      for (const bool nesterov : {false, true}) {
        std::vector<SgdItem> cpu;
        std::vector<SgdItem> gpu;
        uint64_t seed = 0;
        for (const int64_t size : {1, 3, 4096, 20001}) {
          SgdItem item{.parameter = values(size, dtype, ++seed),
                       .grad = values(size, dtype, ++seed),
                       .momentum_buffer = momentum ? values(size, dtype, ++seed) : Tensor(),
                       .lr = 0.1,
                       .weight_decay = 0.01,
                       .keep = 0.9,
                       .take = 0.7};
          SgdItem other = item;
          other.parameter = mirrored(item.parameter);
          other.grad = mirrored(item.grad);
          if (momentum) other.momentum_buffer = mirrored(item.momentum_buffer);
          cpu.push_back(item);
          gpu.push_back(other);
        }
        sgd_cpu({cpu, 0.9, nesterov, 0.5}, cpu_stream());
        sgd_cuda({gpu, 0.9, nesterov, 0.5}, gpu_stream());
        for (size_t i = 0; i < cpu.size(); ++i) {
          expect_equal(gpu[i].parameter, cpu[i].parameter, "parameter");
          if (momentum) expect_equal(gpu[i].momentum_buffer, cpu[i].momentum_buffer, "buffer");
        }
      }
    }
  }
}

TEST_F(CudaOptim, StepsMuon) {
  for (const DType dtype : kTypes) {
    for (const DType stacked_type : {DType::f64, DType::f32, DType::bf16}) {
      for (const bool nesterov : {false, true}) {
        for (const Shape& shape : std::vector<Shape>{{1, 1}, {7, 9}, {128, 96}}) {
          std::vector<MuonItem> cpu;
          std::vector<MuonItem> gpu;
          uint64_t seed = 0;
          for (int i = 0; i < 3; ++i) {
            MuonItem item{.parameter = random_tensor(shape, dtype, ++seed),
                          .grad = random_tensor(shape, dtype, ++seed),
                          .momentum_buffer = random_tensor(shape, dtype, ++seed),
                          .decay = 0.99,
                          .step_size = 0.1 * (i + 1)};
            MuonItem other = item;
            other.parameter = mirrored(item.parameter);
            other.grad = mirrored(item.grad);
            other.momentum_buffer = mirrored(item.momentum_buffer);
            cpu.push_back(item);
            gpu.push_back(other);
          }
          const MuonParams on_cpu{cpu, 0.95, nesterov, 0.5};
          const MuonParams on_gpu{gpu, 0.95, nesterov, 0.5};
          Tensor sums = empty({3}, DType::f64);
          Tensor sums_gpu = mirrored(sums);
          muon_momentum_cpu(on_cpu, sums, cpu_stream());
          muon_momentum_cuda(on_gpu, sums_gpu, gpu_stream());
          expect_close(sums_gpu, sums, relative(dtype), 0, "square_sums");
          Tensor stacked = empty({3, shape[0], shape[1]}, stacked_type);
          Tensor stacked_gpu = mirrored(stacked);
          muon_direction_cpu(on_cpu, sums, stacked, cpu_stream());
          muon_direction_cuda(on_gpu, sums_gpu, stacked_gpu, gpu_stream());
          test::expect_rounded(stacked_gpu, stacked, "direction",
                               dtype == DType::f32 && stacked_type == DType::f64 ? 1e7 : 1);
          muon_apply_cpu(on_cpu, stacked, cpu_stream());
          muon_apply_cuda(on_gpu, mirrored(stacked), gpu_stream());
          for (size_t i = 0; i < cpu.size(); ++i) {
            expect_equal(gpu[i].momentum_buffer, cpu[i].momentum_buffer, "buffer");
            expect_equal(gpu[i].parameter, cpu[i].parameter, "parameter");
          }
        }
      }
    }
  }
}

TEST_F(CudaOptim, SumsSquaresOfMixedTypes) {
  for (const auto& sizes : lists()) {
    std::vector<Tensor> cpu;
    std::vector<Tensor> gpu;
    uint64_t seed = 0;
    for (const int64_t size : sizes) {
      ++seed;
      cpu.push_back(values(size, test::kFloating[seed % 4], seed));
      gpu.push_back(mirrored(cpu.back()));
    }
    const double expected = sum_of_squares_cpu(cpu, cpu_stream());
    const double actual = sum_of_squares_cuda(gpu, gpu_stream());
    EXPECT_NEAR(actual, expected, 1e-13 * expected);
    EXPECT_EQ(sum_of_squares_cuda(gpu, gpu_stream()), actual);
    scale_cpu(cpu, 0.3, cpu_stream());
    scale_cuda(gpu, 0.3, gpu_stream());
    for (size_t i = 0; i < cpu.size(); ++i) test::expect_same(gpu[i], cpu[i], "scaled");
  }
  EXPECT_EQ(sum_of_squares_cuda({}, gpu_stream()), 0);
}

TEST_F(CudaOptim, FindsTheFirstNonFinite) {
  for (const DType dtype : test::kFloating) {
    for (const int64_t size : {1, 9, 8192, 50001}) {
      Tensor x = random_tensor({size}, dtype, 3);
      EXPECT_EQ(find_non_finite_cuda(mirrored(x), gpu_stream()), -1);
      x.select(0, size - 1).fill_(std::numeric_limits<double>::infinity());
      EXPECT_EQ(find_non_finite_cuda(mirrored(x), gpu_stream()), size - 1);
      x.select(0, size / 2).fill_(std::numeric_limits<double>::quiet_NaN());
      EXPECT_EQ(find_non_finite_cuda(mirrored(x), gpu_stream()), size / 2);
    }
  }
  EXPECT_EQ(find_non_finite_cuda(mirrored(empty({0})), gpu_stream()), -1);
}

}  // namespace
}  // namespace weft::optim
