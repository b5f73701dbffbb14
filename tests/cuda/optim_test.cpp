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

/// A row for each item, and the factor of gradients.
StepInputs inputs(const std::vector<StepNumbers>& rows, Device device, double grad_scale = 0.5) {
  std::vector<double> numbers;
  for (const StepNumbers& row : rows) numbers.insert(numbers.end(), row.begin(), row.end());
  return {from_vector(numbers, {static_cast<int64_t>(rows.size()), kStepNumbers}, device),
          scalar(grad_scale, DType::f64, device)};
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
      std::vector<StepNumbers> rows;
      uint64_t seed = 0;
      for (const int64_t size : sizes) {
        const AdamWItem item{.parameter = values(size, dtype, ++seed),
                             .grad = values(size, dtype, ++seed),
                             .exp_avg = values(size, dtype, ++seed),
                             .exp_avg_sq = values(size, dtype, ++seed, 0),
                             .copy = {},
                             .row = static_cast<int64_t>(rows.size())};
        const auto i = static_cast<double>(rows.size() % 7);
        rows.push_back(AdamWNumbers{1 - 1e-4 * i, 1e-2 + 1e-3 * i, 1.5}.row());
        AdamWItem other = item;
        for (Tensor AdamWItem::*field : {&AdamWItem::parameter, &AdamWItem::grad,
                                         &AdamWItem::exp_avg, &AdamWItem::exp_avg_sq}) {
          other.*field = mirrored(item.*field);
        }
        cpu.push_back(item);
        gpu.push_back(other);
      }
      adamw_cpu({cpu, 0.9, 0.95, 1e-8, inputs(rows, kCpu)}, cpu_stream());
      adamw_cuda({gpu, 0.9, 0.95, 1e-8, inputs(rows, kGpu)}, gpu_stream());
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
        std::vector<StepNumbers> rows;
        uint64_t seed = 0;
        for (const int64_t size : {1, 3, 4096, 20001}) {
          SgdItem item{.parameter = values(size, dtype, ++seed),
                       .grad = values(size, dtype, ++seed),
                       .momentum_buffer = momentum ? values(size, dtype, ++seed) : Tensor(),
                       .copy = {},
                       .row = static_cast<int64_t>(rows.size())};
          const auto i = static_cast<double>(rows.size());
          rows.push_back(SgdNumbers{0.1 + 0.01 * i, 0.01 * i, 0.9, 0.7}.row());
          SgdItem other = item;
          other.parameter = mirrored(item.parameter);
          other.grad = mirrored(item.grad);
          if (momentum) other.momentum_buffer = mirrored(item.momentum_buffer);
          cpu.push_back(item);
          gpu.push_back(other);
        }
        sgd_cpu({cpu, 0.9, nesterov, inputs(rows, kCpu)}, cpu_stream());
        sgd_cuda({gpu, 0.9, nesterov, inputs(rows, kGpu)}, gpu_stream());
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
          std::vector<StepNumbers> rows;
          uint64_t seed = 0;
          for (int i = 0; i < 3; ++i) {
            MuonItem item{.parameter = random_tensor(shape, dtype, ++seed),
                          .grad = random_tensor(shape, dtype, ++seed),
                          .momentum_buffer = random_tensor(shape, dtype, ++seed),
                          .copy = {},
                          .row = 2 - i};
            rows.push_back(MuonNumbers{0.99, 0.1 * (i + 1)}.row());
            MuonItem other = item;
            other.parameter = mirrored(item.parameter);
            other.grad = mirrored(item.grad);
            other.momentum_buffer = mirrored(item.momentum_buffer);
            cpu.push_back(item);
            gpu.push_back(other);
          }
          const MuonParams on_cpu{cpu, 0.95, nesterov, inputs(rows, kCpu)};
          const MuonParams on_gpu{gpu, 0.95, nesterov, inputs(rows, kGpu)};
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

double norm_on_gpu(std::span<const Tensor> tensors) {
  Tensor norm = full({}, -1, DType::f64, kGpu);
  grad_norm_cuda(tensors, norm, gpu_stream());
  return norm.item<double>();
}

TEST_F(CudaOptim, TakesTheNormOfMixedTypes) {
  for (const auto& sizes : lists()) {
    std::vector<Tensor> cpu;
    std::vector<Tensor> gpu;
    uint64_t seed = 0;
    for (const int64_t size : sizes) {
      ++seed;
      cpu.push_back(values(size, test::kFloating[seed % 4], seed));
      gpu.push_back(mirrored(cpu.back()));
    }
    Tensor expected = empty({}, DType::f64);
    grad_norm_cpu(cpu, expected, cpu_stream());
    const double actual = norm_on_gpu(gpu);
    EXPECT_NEAR(actual, expected.item<double>(), 1e-13 * expected.item<double>());
    EXPECT_EQ(norm_on_gpu(gpu), actual);
    scale_cpu(cpu, 0.3, cpu_stream());
    scale_cuda(gpu, 0.3, gpu_stream());
    for (size_t i = 0; i < cpu.size(); ++i) test::expect_same(gpu[i], cpu[i], "scaled");
  }
  EXPECT_EQ(norm_on_gpu({}), 0);
}

TEST_F(CudaOptim, GivesTheFactorThatClips) {
  const double infinity = std::numeric_limits<double>::infinity();
  for (const DType dtype : kTypes) {
    for (const double norm : {0.0, 0.3, 7.0, 1e30, infinity, std::nan("")}) {
      for (const double max_norm : {0.5, 10.0, infinity}) {
        for (const double unscale : {0.0, 0.125, 3.0, infinity}) {
          const Tensor of = scalar(norm, dtype);
          const Tensor by = unscale == 0 ? Tensor() : scalar(unscale, dtype);
          Tensor cpu = empty({}, DType::f64);
          clip_scale_cpu(of, by, max_norm, cpu, cpu_stream());
          Tensor gpu = zeros({}, DType::f64, kGpu);
          clip_scale_cuda(of.to(kGpu), by.defined() ? by.to(kGpu) : by, max_norm, gpu,
                          gpu_stream());
          test::expect_same(gpu, cpu, "scale");
        }
      }
    }
  }
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
