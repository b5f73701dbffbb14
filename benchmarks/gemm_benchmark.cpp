// Times Weft's matrix products beside the libraries that they use, by turns in one run, and prints
// JSON: for each product the rate of Weft, of every way of calling a library, and the ratio to the
// best of those.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include <boost/program_options.hpp>
#include <cblas.h>
#include <nlohmann/json.hpp>
#ifdef WEFT_HAVE_ONEDNN
#include <dnnl.hpp>
#endif

#include "weft/tensor/ops/linear.h"
#include "weft/tensor/ops/matmul.h"
#include "weft/tensor/parallel.h"
#include "weft/tensor/tensor.h"

#include "answer_version.h"

// Only OpenBLAS has it; null with another CBLAS.
extern "C" void openblas_set_num_threads(int threads) __attribute__((weak));

namespace {

using weft::DType;
using weft::Tensor;

constexpr const char* kDescription =
    "weft_gemm_benchmark: times matrix products beside the libraries behind them; prints JSON.\n"
    "square: [S, S] x [S, S]. The other kinds are those of a linear layer [M, K] -> [M, N]:\n"
    "forward x w^T, input dy w, weight dy^T x (f32 result). Rates are in GFLOP/s.\n";

/// c = a b, or with transposed operands, as library calls see it.
struct Problem {
  int64_t m, n, k;
  bool transpose_a, transpose_b;
  Tensor a, b, c;  // a is stored [k, m] if transposed, b [n, k]
};

struct Shape {
  int64_t m, n, k;  // of the forward product of a linear layer
};

constexpr Shape kLinearShapes[] = {{4096, 192, 192},  {4096, 512, 192}, {4096, 192, 512},
                                   {4096, 256, 192},  {2048, 384, 384}, {2048, 1024, 384},
                                   {2048, 384, 1024}, {512, 768, 768},  {512, 2048, 768},
                                   {512, 768, 2048},  {512, 50304, 768}};

Tensor random_matrix(int64_t rows, int64_t columns, DType dtype) {
  const Tensor values = weft::empty({rows, columns}, DType::f32);
  float* const to = const_cast<Tensor&>(values).data<float>();
  uint32_t state = 12345;
  for (int64_t i = 0; i < values.numel(); ++i) {
    state = state * 1664525u + 1013904223u;
    to[i] = static_cast<float>(state >> 8) * 0x1p-23f - 1;
  }
  return values.to(dtype);
}

Problem make_problem(int64_t m, int64_t n, int64_t k, bool transpose_a, bool transpose_b,
                     DType dtype, DType out_dtype) {
  return {m,
          n,
          k,
          transpose_a,
          transpose_b,
          transpose_a ? random_matrix(k, m, dtype) : random_matrix(m, k, dtype),
          transpose_b ? random_matrix(n, k, dtype) : random_matrix(k, n, dtype),
          weft::zeros({m, n}, out_dtype)};
}

/// One way to compute a product.
struct Contender {
  std::string name;
  std::function<void()> run;
  bool leaves_spinning_threads = false;  // that disturb who comes next
  std::vector<double> seconds = {};
};

void add_blas(const Problem& problem, std::vector<Contender>& contenders) {
  if (problem.a.dtype() == DType::bf16) return;
  contenders.push_back(
      {"cblas", [problem] {
         // Weft keeps the library to one thread in each of its own.
         if (openblas_set_num_threads != nullptr) openblas_set_num_threads(weft::num_threads());
         const auto flag = [](bool transpose) { return transpose ? CblasTrans : CblasNoTrans; };
         const auto m = static_cast<blasint>(problem.m), n = static_cast<blasint>(problem.n);
         const auto k = static_cast<blasint>(problem.k);
         const blasint lda = problem.transpose_a ? m : k, ldb = problem.transpose_b ? k : n;
         Tensor c = problem.c;
         if (problem.a.dtype() == DType::f64) {
           cblas_dgemm(CblasRowMajor, flag(problem.transpose_a), flag(problem.transpose_b), m, n, k,
                       1, problem.a.data<double>(), lda, problem.b.data<double>(), ldb, 0,
                       c.data<double>(), n);
         } else {
           cblas_sgemm(CblasRowMajor, flag(problem.transpose_a), flag(problem.transpose_b), m, n, k,
                       1, problem.a.data<float>(), lda, problem.b.data<float>(), ldb, 0,
                       c.data<float>(), n);
         }
       }});
}

#ifdef WEFT_HAVE_ONEDNN
const dnnl::engine& engine() {
  static const dnnl::engine cpu(dnnl::engine::kind::cpu, 0);
  return cpu;
}

dnnl::memory::desc describe(const Tensor& matrix, bool transpose) {
  const auto type =
      matrix.dtype() == DType::bf16 ? dnnl::memory::data_type::bf16 : dnnl::memory::data_type::f32;
  using tag = dnnl::memory::format_tag;
  const int64_t rows = matrix.size(transpose ? 1 : 0), columns = matrix.size(transpose ? 0 : 1);
  return {{rows, columns}, type, transpose ? tag::ba : tag::ab};
}

/// The matmul primitive; `packed` lets it choose the layout of b and leaves the conversion out.
void add_onednn_matmul(const Problem& problem, bool packed, std::vector<Contender>& contenders) {
  const auto a = describe(problem.a, problem.transpose_a);
  auto b = describe(problem.b, problem.transpose_b);
  const auto plain_b = b;
  const auto c = describe(problem.c, false);
  if (packed)
    b = dnnl::memory::desc({problem.k, problem.n}, b.data_type(), dnnl::memory::format_tag::any);
#if DNNL_VERSION_MAJOR >= 3
  const dnnl::matmul::primitive_desc plan(engine(), a, b, c);
#else
  const dnnl::matmul::primitive_desc plan(dnnl::matmul::desc(a, b, c), engine());
#endif
  if (packed && plan.weights_desc() == plain_b) return;
  auto stream = std::make_shared<dnnl::stream>(engine());
  dnnl::memory weights(plain_b, engine(), problem.b.raw_data());
  if (packed) {
    // Aligned as Weft's own tensors are.
    const Tensor room =
        weft::empty({static_cast<int64_t>(plan.weights_desc().get_size())}, DType::u8);
    dnnl::memory blocked(plan.weights_desc(), engine(), room.raw_data());
    dnnl::reorder(weights, blocked).execute(*stream, weights, blocked);
    static std::vector<Tensor> kept;
    kept.push_back(room);
    weights = blocked;
  }
  const std::unordered_map<int, dnnl::memory> arguments{
      {DNNL_ARG_SRC, dnnl::memory(a, engine(), problem.a.raw_data())},
      {DNNL_ARG_WEIGHTS, weights},
      {DNNL_ARG_DST, dnnl::memory(c, engine(), problem.c.raw_data())}};
  contenders.push_back({packed ? "onednn_packed" : "onednn_matmul",
                        [problem, stream, arguments, matmul = dnnl::matmul(plan)] {
                          matmul.execute(*stream, arguments);
                        }});
}

void add_onednn(const Problem& problem, bool b_is_weight, std::vector<Contender>& contenders) {
  if (problem.a.dtype() == DType::f64) return;
  add_onednn_matmul(problem, /*packed=*/false, contenders);
  if (problem.a.dtype() == DType::bf16) {
    if (b_is_weight) add_onednn_matmul(problem, /*packed=*/true, contenders);
    return;
  }
  contenders.push_back(
      {"onednn_sgemm", [problem] {
         Tensor c = problem.c;
         dnnl_sgemm(problem.transpose_a ? 'T' : 'N', problem.transpose_b ? 'T' : 'N', problem.m,
                    problem.n, problem.k, 1, problem.a.data<float>(),
                    problem.transpose_a ? problem.m : problem.k, problem.b.data<float>(),
                    problem.transpose_b ? problem.k : problem.n, 0, c.data<float>(), problem.n);
       }});
}
#else
void add_onednn(const Problem&, bool, std::vector<Contender>&) {}
#endif

double seconds_of(const std::function<void()>& run, int64_t calls) {
  const auto start = std::chrono::steady_clock::now();
  for (int64_t i = 0; i < calls; ++i) run();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() /
         static_cast<double>(calls);
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

/// Lets threads of another pool go to sleep, then brings those that the others share back to speed.
void settle(const Contender& contender) {
  std::this_thread::sleep_for(std::chrono::milliseconds(60));
  constexpr double kWarmUp = 20e-3;  // seconds
  const auto start = std::chrono::steady_clock::now();
  do {
    contender.run();
  } while (std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() <
           kWarmUp);
}

/// Times all contenders by turns; the first is Weft.
nlohmann::ordered_json measure(const std::string& kind, const Shape& shape, DType dtype,
                               const Problem& problem, std::vector<Contender> contenders,
                               int rounds) {
  const double flops = 2.0 * static_cast<double>(problem.m) * static_cast<double>(problem.n) *
                       static_cast<double>(problem.k);
  constexpr double kTurn = 2e-3;  // seconds; shorter calls are repeated
  for (Contender& contender : contenders) contender.run();
  for (int round = 0; round < rounds; ++round) {
    for (Contender& contender : contenders) {
      const double once = seconds_of(contender.run, 1);
      const auto calls = static_cast<int64_t>(std::clamp(kTurn / once, 1.0, 1000.0));
      contender.seconds.push_back(seconds_of(contender.run, calls));
      if (contender.leaves_spinning_threads) settle(contenders.front());
    }
  }
  const auto best_rate = [&](const Contender& contender) {
    return flops / *std::min_element(contender.seconds.begin(), contender.seconds.end()) * 1e-9;
  };
  const auto median_rate = [&](const Contender& contender) {
    return flops / median(contender.seconds) * 1e-9;
  };
  nlohmann::ordered_json row{{"kind", kind},
                             {"m", shape.m},
                             {"n", shape.n},
                             {"k", shape.k},
                             {"dtype", std::string(weft::to_string(dtype))}};
  double best_of_libraries = 0, median_of_libraries = 0;
  for (const Contender& contender : contenders) {
    row[contender.name] = {{"best", best_rate(contender)}, {"median", median_rate(contender)}};
    if (&contender == &contenders.front()) continue;
    best_of_libraries = std::max(best_of_libraries, best_rate(contender));
    median_of_libraries = std::max(median_of_libraries, median_rate(contender));
  }
  row["ratio_of_best"] = best_rate(contenders.front()) / best_of_libraries;
  row["ratio_of_medians"] = median_rate(contenders.front()) / median_of_libraries;
  return row;
}

nlohmann::ordered_json time_product(const std::string& kind, const Shape& shape, DType dtype,
                                    int rounds) {
  const auto [M, N, K] = shape;
  const DType gradient = dtype == DType::bf16 ? DType::f32 : dtype;
  Problem problem;
  std::vector<Contender> contenders;
  if (kind == "square") {
    problem = make_problem(M, N, K, false, false, dtype, dtype);
    contenders.push_back({"weft", [problem] {
                            Tensor c = problem.c;
                            weft::matmul_into(c, problem.a, problem.b);
                          }});
  } else if (kind == "forward") {
    problem = make_problem(M, N, K, false, true, dtype, dtype);
    const Tensor master = problem.b.to(gradient);
    contenders.push_back({"weft", [problem, master] { weft::linear(problem.a, master); }});
  } else if (kind == "input") {
    problem = make_problem(M, K, N, false, false, dtype, dtype);
    const Tensor master = problem.b.to(gradient);
    contenders.push_back(
        {"weft", [problem, master] { weft::linear_backward_input(problem.a, master); }});
  } else {
    problem = make_problem(N, K, M, true, false, dtype, gradient);
    contenders.push_back({"weft", [problem, gradient] {
                            weft::linear_backward_weight(problem.a, problem.b, gradient);
                          }});
  }
  add_onednn(problem, kind == "forward" || kind == "input", contenders);
  add_blas(problem, contenders);
  return measure(kind, shape, dtype, problem, std::move(contenders), rounds);
}

int run(int argc, char** argv) {
  namespace po = boost::program_options;
  po::options_description options("Options");
  std::vector<std::string> dtypes, kinds;
  int rounds = 0, threads = 0;
  options.add_options()("help,h", "this text")(
      "dtype", po::value(&dtypes)->multitoken()->default_value({"f32", "bf16"}, "f32 bf16"),
      "operand types: f64, f32, bf16")(
      "kind",
      po::value(&kinds)->multitoken()->default_value({"square", "forward", "input", "weight"},
                                                     "square forward input weight"),
      "products to time")("rounds", po::value(&rounds)->default_value(7),
                          "turns of each contender")(
      "threads", po::value(&threads)->default_value(0), "threads; 0: as the environment says");
  po::variables_map values;
  po::store(po::parse_command_line(argc, argv, options), values);
  po::notify(values);
  if (values.count("help") > 0) {
    std::cout << kDescription << options;
    return 0;
  }
  if (rounds < 1) throw po::error("--rounds must be at least 1");
  if (threads > 0) weft::set_num_threads(threads);

  auto rows = nlohmann::ordered_json::array();
  for (const std::string& name : dtypes) {
    const DType dtype = weft::parse_dtype(name);
    for (const std::string& kind : kinds) {
      if (kind == "square") {
        for (const int64_t size : {256, 512, 1024, 2048})
          rows.push_back(time_product(kind, {size, size, size}, dtype, rounds));
      } else if (kind == "forward" || kind == "input" || kind == "weight") {
        for (const Shape& shape : kLinearShapes)
          rows.push_back(time_product(kind, shape, dtype, rounds));
      } else {
        throw po::error("--kind " + kind + " is none of square, forward, input, weight");
      }
    }
  }
  nlohmann::ordered_json report{{"benchmark", "gemm"}, {"threads", weft::num_threads()}};
#ifdef WEFT_HAVE_ONEDNN
  const dnnl_version_t* const version = dnnl_version();
  report["onednn"] = std::to_string(version->major) + "." + std::to_string(version->minor) + "." +
                     std::to_string(version->patch);
#endif
  report["rows"] = rows;
  std::cout << report.dump(1) << "\n";
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (weft::bench::answer_version(argc, argv)) return 0;
  try {
    return run(argc, argv);
  } catch (const boost::program_options::error& error) {
    std::cerr << "error: " << error.what() << "\n";
    return 2;
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << "\n";
    return 1;
  }
}
