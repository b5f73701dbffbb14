#include "weft/tensor/ops/embedding.h"

#include "cuda_ops_benchmark.h"
#include "kernels/adamw.h"
#include "kernels/grad_norm.h"
#include "kernels/muon.h"
#include "kernels/sgd.h"
#include "ops/cross_entropy_kernels.h"
#include "ops/embedding_kernels.h"
#include "ops/gather_kernels.h"

namespace weft::bench {

void add_tables(Benchmark& benchmark, DType dtype) {
  constexpr int64_t kVocabulary = 50304;
  benchmark.add("embedding", [&]() -> Case {
    const Tensor table = random({kVocabulary, 1024}, dtype, 1);
    const Tensor ids = random_ids({65536}, kVocabulary, 2);
    Tensor out = empty({65536, 1024}, dtype, kGpu);
    return {out.shape(), 2 * bytes_of({out}),
            [=]() mutable { embedding_cuda(table, ids, out, current_stream(kGpu)); }};
  });
  benchmark.add("embedding_of_f32", [&]() -> Case {
    const Tensor table = random({kVocabulary, 1024}, DType::f32, 1);
    const Tensor ids = random_ids({65536}, kVocabulary, 2);
    return {{65536, 1024}, int64_t{65536} * 1024 * (4 + static_cast<int64_t>(size_of(dtype))), [=] {
              embedding(table, ids, dtype);
            }};
  });
  benchmark.add("embedding_backward", [&]() -> Case {
    const Tensor dy = random({65536, 1024}, dtype, 1);
    const Tensor ids = random_ids({65536}, kVocabulary, 2);
    Tensor dtable = zeros({kVocabulary, 1024}, dtype, kGpu);
    return {dy.shape(), bytes_of({dy, dtable}),
            [=]() mutable { embedding_backward_cuda(dy, ids, dtable, current_stream(kGpu)); }};
  });
  benchmark.add("embedding_backward_to_f32", [&]() -> Case {
    const Tensor dy = random({65536, 1024}, dtype, 1);
    const Tensor ids = random_ids({65536}, kVocabulary, 2);
    Tensor dtable = zeros({kVocabulary, 1024}, DType::f32, kGpu);
    return {dy.shape(), bytes_of({dy, dtable}),
            [=]() mutable { embedding_backward_cuda(dy, ids, dtable, current_stream(kGpu)); }};
  });
  benchmark.add("scatter_add_rows", [&]() -> Case {
    Tensor x = random({kVocabulary, 1024}, DType::f32, 1);
    const Tensor source = random({65536, 1024}, DType::f32, 2);
    const Tensor index = random_ids({65536, 1}, kVocabulary, 2).expand({65536, 1024});
    return {source.shape(), bytes_of({source, x, x}),
            [=]() mutable { scatter_add_cuda(x, 0, index, source, current_stream(kGpu)); }};
  });
  benchmark.add("gather_rows", [&]() -> Case {
    const Tensor x = random({kVocabulary, 1024}, dtype, 1);
    const Tensor index = random_ids({65536, 1}, kVocabulary, 2).expand({65536, 1024});
    Tensor out = empty({65536, 1024}, dtype, kGpu);
    return {out.shape(), 2 * bytes_of({out}),
            [=]() mutable { gather_cuda(x, 0, index, out, current_stream(kGpu)); }};
  });
  const int64_t rows = 4096;
  const auto targets = [&] { return random_ids({rows}, kVocabulary, 3); };
  benchmark.add("cross_entropy", [&]() -> Case {
    const CrossEntropyRows given{random({rows, kVocabulary}, dtype, 1), targets(), -100, 0};
    Tensor losses = empty({rows}, DType::f32, kGpu);
    Tensor logsumexp = empty({rows}, DType::f32, kGpu);
    return {given.logits.shape(), bytes_of({given.logits}), [=]() mutable {
              cross_entropy_forward_cuda(given, losses, logsumexp, current_stream(kGpu));
            }};
  });
  benchmark.add("cross_entropy_backward", [&]() -> Case {
    const CrossEntropyRows given{random({rows, kVocabulary}, dtype, 1), targets(), -100, 0};
    const Tensor ones = full({rows}, 1, DType::f32, kGpu);
    const Tensor logsumexp = full({rows}, 11, DType::f32, kGpu);
    Tensor dlogits = empty(given.logits.shape(), dtype, kGpu);
    return {given.logits.shape(), 2 * bytes_of({given.logits}), [=]() mutable {
              cross_entropy_backward_cuda(given, logsumexp, ones, dlogits, current_stream(kGpu));
            }};
  });
  for (const int64_t some : {512, 4096}) {
    benchmark.add("cross_entropy_both", [&]() -> Case {
      const CrossEntropyRows given{random({some, kVocabulary}, dtype, 1),
                                   random_ids({some}, kVocabulary, 3), -100, 0};
      Tensor losses = empty({some}, DType::f32, kGpu);
      return {given.logits.shape(), 2 * bytes_of({given.logits}), [=]() mutable {
                CrossEntropyRows both = given;
                cross_entropy_both_cuda(both, Tensor(), losses, both.logits, current_stream(kGpu));
              }};
    });
  }
}

/// Lists of `count` tensors of uneven sizes, 64 Mi elements together.
void add_optimizers(Benchmark& benchmark) {
  for (const int64_t count : {1, 200}) {
    std::vector<int64_t> sizes;
    int64_t total = 0;
    for (int64_t i = 0; i < count; ++i) {
      sizes.push_back(count == 1 ? 1 << 26 : (int64_t{1} << 27) * (i + 1) / (count * (count + 1)));
      total += sizes.back();
    }
    const auto list = [&](double value) {
      std::vector<Tensor> tensors;
      for (const int64_t size : sizes) tensors.push_back(full({size}, value, DType::f32, kGpu));
      return tensors;
    };
    const auto inputs = [count](const optim::StepNumbers& row) {
      const std::vector<double> numbers(row.begin(), row.end());
      return optim::StepInputs{from_vector(numbers, {1, optim::kStepNumbers}, kGpu)
                                   .expand({count, optim::kStepNumbers})
                                   .contiguous(),
                               scalar(1, DType::f64, kGpu)};
    };
    const std::string suffix = fmt::format("_of_{}", count);
    benchmark.add("adamw" + suffix, [&]() -> Case {
      std::vector<optim::AdamWItem> items;
      const auto p = list(0.5), g = list(0.01), m = list(0), v = list(0);
      for (size_t i = 0; i < p.size(); ++i) {
        items.push_back({p[i], g[i], m[i], v[i], {}, static_cast<int64_t>(i)});
      }
      const auto numbers = inputs(optim::AdamWNumbers{0.9999, 1e-6, 1.5}.row());
      return {{total}, 28 * total, [=]() mutable {
                optim::adamw_cuda({items, 0.9, 0.95, 1e-8, numbers}, current_stream(kGpu));
              }};
    });
    benchmark.add("adamw_with_bf16_copies" + suffix, [&]() -> Case {
      std::vector<optim::AdamWItem> items;
      const auto p = list(0.5), g = list(0.01), m = list(0), v = list(0);
      for (size_t i = 0; i < p.size(); ++i) {
        items.push_back({p[i], g[i], m[i], v[i], p[i].to(DType::bf16), static_cast<int64_t>(i)});
      }
      const auto numbers = inputs(optim::AdamWNumbers{0.9999, 1e-6, 1.5}.row());
      return {{total}, 30 * total, [=]() mutable {
                optim::adamw_cuda({items, 0.9, 0.95, 1e-8, numbers}, current_stream(kGpu));
              }};
    });
    benchmark.add("sgd_momentum" + suffix, [&]() -> Case {
      std::vector<optim::SgdItem> items;
      const auto p = list(0.5), g = list(0.01), b = list(0);
      for (size_t i = 0; i < p.size(); ++i) {
        items.push_back({p[i], g[i], b[i], {}, static_cast<int64_t>(i)});
      }
      const auto numbers = inputs(optim::SgdNumbers{1e-6, 0.01, 0.9, 1}.row());
      return {{total}, 20 * total, [=]() mutable {
                optim::sgd_cuda({items, 0.9, false, numbers}, current_stream(kGpu));
              }};
    });
    benchmark.add("grad_norm" + suffix, [&]() -> Case {
      return {{total}, 4 * total, [g = list(0.01)] {
                Tensor norm = empty({}, DType::f64, kGpu);
                optim::grad_norm_cuda(g, norm, current_stream(kGpu));
              }};
    });
    benchmark.add("scale" + suffix, [&]() -> Case {
      return {{total}, 8 * total, [g = list(0.01)]() mutable {
                optim::scale_cuda(g, 0.999, current_stream(kGpu));
              }};
    });
    benchmark.add("muon_momentum" + suffix, [&]() -> Case {
      std::vector<optim::MuonItem> items;
      const auto p = list(0.5), g = list(0.01), b = list(0);
      for (size_t i = 0; i < p.size(); ++i)
        items.push_back({p[i], g[i], b[i], {}, static_cast<int64_t>(i)});
      const auto numbers = inputs(optim::MuonNumbers{0.99, 1e-6}.row());
      Tensor sums = empty({count}, DType::f64, kGpu);
      return {{total}, 12 * total, [=]() mutable {
                optim::muon_momentum_cuda({items, 0.95, true, numbers}, sums, current_stream(kGpu));
              }};
    });
    for (const bool apply : {false, true}) {
      // One shape for all, as matrices that are made orthogonal together have.
      const int64_t rows = (int64_t{1} << 16) / count;
      benchmark.add((apply ? "muon_apply" : "muon_direction") + suffix, [&]() -> Case {
        std::vector<optim::MuonItem> items;
        for (int64_t i = 0; i < count; ++i) {
          const auto matrix = [&](double value) {
            return full({rows, 1024}, value, DType::f32, kGpu);
          };
          items.push_back({matrix(0.5), matrix(0.01), matrix(0.1), {}, i});
        }
        const auto numbers = inputs(optim::MuonNumbers{0.99, 1e-6}.row());
        Tensor stacked = zeros({count, rows, 1024}, DType::bf16, kGpu);
        const Tensor sums = full({count}, 1, DType::f64, kGpu);
        const int64_t all = stacked.numel();
        // Directions read gradients and momenta.
        return {stacked.shape(), 10 * all, [=]() mutable {
                  const optim::MuonParams params{items, 0.95, true, numbers};
                  if (apply) {
                    optim::muon_apply_cuda(params, stacked, current_stream(kGpu));
                  } else {
                    optim::muon_direction_cuda(params, sums, stacked, current_stream(kGpu));
                  }
                }};
      });
    }
  }
}

}  // namespace weft::bench
