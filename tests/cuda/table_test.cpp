// Ops that read and write at places that indices name, and those along a line.
#include <functional>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "weft/tensor/error.h"
#include "weft/tensor/ops/arithmetic.h"
#include "weft/tensor/ops/cumsum.h"
#include "weft/tensor/ops/embedding.h"
#include "weft/tensor/ops/gather.h"
#include "weft/tensor/ops/topk.h"
#include "weft/tensor/stream.h"

#include "close_bounds.h"

namespace weft {
namespace {

using test::expect_close;
using test::expect_rounded;
using test::expect_same;
using test::in_all_layouts;
using test::kFloating;
using test::kGpu;
using test::mirrored;
using test::random_of_type;
using test::random_tensor;

class CudaTables : public test::CudaTest {};

constexpr DType kIndexTypes[] = {DType::i64, DType::i32};

Tensor indices(const Shape& shape, int64_t size, DType dtype, uint64_t seed) {
  return random_tensor(shape, dtype, seed, 0, static_cast<double>(size));
}

TEST_F(CudaTables, Gathers) {
  for (const DType dtype : kEveryDType) {
    for (const DType index_type : kIndexTypes) {
      for (const Tensor& x : in_all_layouts(random_of_type({9, 12, 32}, dtype, 1))) {
        for (int axis = 0; axis < 3; ++axis) {
          Shape shape{7, 11, 16};
          shape[axis] = 21;
          const Tensor index = indices(shape, x.size(axis), index_type, 2);
          for (const Tensor& at : in_all_layouts(index)) {
            expect_same(gather(mirrored(x), axis, mirrored(at)), gather(x, axis, at), "gather");
          }
          const Tensor list = indices({5}, x.size(axis), index_type, 3);
          expect_same(index_select(mirrored(x), axis, mirrored(list)), index_select(x, axis, list),
                      "index_select");
        }
      }
    }
  }
}

TEST_F(CudaTables, AddsAtIndices) {
  for (const DType dtype :
       {DType::f64, DType::f32, DType::bf16, DType::f16, DType::i64, DType::i32}) {
    for (const DType index_type : kIndexTypes) {
      for (const Tensor& x : in_all_layouts(random_of_type({9, 12, 32}, dtype, 1))) {
        for (int axis = 0; axis < 3; ++axis) {
          Shape shape{7, 11, 16};
          shape[axis] = 21;
          const Tensor index = indices(shape, x.size(axis), index_type, 2);
          const Tensor source = random_of_type(shape, dtype, 4);
          expect_rounded(scatter_add(mirrored(x), axis, mirrored(index), mirrored(source)),
                         scatter_add(x, axis, index, source), "scatter_add", 8);
          Shape rows = x.shape();
          rows[axis] = 300;
          const Tensor list = indices({300}, x.size(axis), index_type, 3);
          const Tensor added = random_of_type(rows, dtype, 5);
          expect_rounded(index_add(mirrored(x), axis, mirrored(list), mirrored(added)),
                         index_add(x, axis, list, added), "index_add", 32);
        }
      }
    }
  }
}

TEST_F(CudaTables, AddsIntoVectors) {
  for (const DType dtype : {DType::f64, DType::f32, DType::i64, DType::i32}) {
    const Tensor x = random_of_type({100}, dtype, 1);
    const Tensor index = indices({5000}, 100, DType::i64, 2);
    const Tensor source = random_of_type({5000}, dtype, 3);
    expect_rounded(scatter_add(mirrored(x), 0, mirrored(index), mirrored(source)),
                   scatter_add(x, 0, index, source), "scatter_add", 32);
  }
}

TEST_F(CudaTables, LooksUpEmbeddings) {
  for (const DType dtype : kEveryDType) {
    for (const DType index_type : kIndexTypes) {
      for (const int64_t width : {1, 7, 64, 768}) {
        const Tensor dense = random_of_type({50, width}, dtype, 1);
        const Tensor ids = indices({3, 40}, 50, index_type, 2);
        for (const Tensor& table : {dense, test::with_gaps(dense)}) {
          expect_same(embedding(mirrored(table), mirrored(ids)), embedding(table, ids),
                      "embedding");
        }
      }
    }
  }
}

TEST_F(CudaTables, RoundsEmbeddingsOnTheWay) {
  for (const DType dtype : {DType::bf16, DType::f16}) {
    for (const int64_t width : {1, 7, 8, 20, 64, 768}) {
      const Tensor dense = random_of_type({50, width}, DType::f32, 1);
      const Tensor ids = indices({3, 40}, 50, DType::i64, 2);
      for (const Tensor& table : {dense, test::with_gaps(dense)}) {
        expect_same(embedding(mirrored(table), mirrored(ids), dtype), embedding(table, ids, dtype),
                    "embedding");
      }
    }
  }
}

/// Ids of which a share are all one.
Tensor skewed_ids(int64_t count, int64_t vocabulary, DType dtype, double share) {
  Tensor ids = indices({count}, vocabulary, dtype, 7);
  ids.slice(0, 0, static_cast<int64_t>(share * static_cast<double>(count))).fill_(vocabulary / 2);
  return ids;
}

TEST_F(CudaTables, AddsUpEmbeddingGradients) {
  for (const DType dtype : kFloating) {
    for (const DType index_type : kIndexTypes) {
      for (const int64_t width : {1, 33, 64, 1500}) {
        for (const int64_t count : {1, 63, 64, 65, 1000}) {
          for (const double share : {0.0, 0.4, 1.0}) {
            SCOPED_TRACE(testing::Message() << to_string(dtype) << " " << count << " x " << width);
            const Tensor ids = skewed_ids(count, 90, index_type, share);
            const Tensor dy = random_tensor({count, width}, dtype, 2);
            // Hundreds of rows may have one id.
            expect_rounded(embedding_backward(mirrored(dy), mirrored(ids), 90),
                           embedding_backward(dy, ids, 90), "embedding_backward", 100);
            if (dtype == DType::bf16 || dtype == DType::f16) {
              expect_rounded(embedding_backward(mirrored(dy), mirrored(ids), 90, DType::f32),
                             embedding_backward(dy, ids, 90, DType::f32), "in f32", 100);
            }
          }
        }
      }
    }
  }
}

TEST_F(CudaTables, AddsUpRowsOfIdsOfOneToFourDigits) {
  // Whole numbers, whose sums are the same in any order: every row has to come to its place once.
  for (const int64_t size : {1, 200, 255, 256, 257, 50304, 65535, 65536, 70000, (1 << 24) + 3}) {
    for (const int64_t count : {1, 31, 1024, 1025, 70001, 140000, (1 << 20) + 5}) {
      if (size > 70000 && count > 70001) continue;
      for (const DType index_type : kIndexTypes) {
        SCOPED_TRACE(testing::Message() << count << " ids of " << size);
        const Tensor dy = random_tensor({count, 1}, DType::i32, 4, -3, 4).to(DType::f32);
        for (const Tensor& ids :
             {indices({count}, size, index_type, 5), skewed_ids(count, size, index_type, 0.5)}) {
          expect_same(embedding_backward(mirrored(dy), mirrored(ids), size),
                      embedding_backward(dy, ids, size), "sums");
        }
      }
    }
  }
}

TEST_F(CudaTables, AddsUpRowsOfIdsThatRepeatAnyNumberOfTimes) {
  // Id i comes i + 1 times; whole numbers, whose sums are the same in any order.
  constexpr int64_t kIds = 160;
  std::vector<int64_t> values;
  for (int64_t i = 0; i < kIds; ++i) values.insert(values.end(), static_cast<size_t>(i) + 1, i);
  const auto count = static_cast<int64_t>(values.size());
  for (const int64_t step : {1, 7919}) {  // without a factor in common with their number
    std::vector<int64_t> shuffled(values.size());
    for (int64_t i = 0; i < count; ++i) {
      shuffled[static_cast<size_t>(i * step % count)] = values[static_cast<size_t>(i)];
    }
    const Tensor ids = from_vector(shuffled, {count});
    for (const int64_t width : {3, 64, 1032}) {
      SCOPED_TRACE(testing::Message() << count << " x " << width << ", " << step << " apart");
      const Tensor dy = random_tensor({count, width}, DType::i32, 6, -3, 4).to(DType::f32);
      expect_same(embedding_backward(mirrored(dy), mirrored(ids), kIds),
                  embedding_backward(dy, ids, kIds), "sums");
      // Of the first ids alone, so that the last run ends anywhere.
      for (const int64_t first : {31, 32, 33, 64, 65, 96, 97, 100}) {
        expect_same(embedding_backward(mirrored(dy.slice(0, 0, first)),
                                       mirrored(ids.slice(0, 0, first)), kIds),
                    embedding_backward(dy.slice(0, 0, first), ids.slice(0, 0, first), kIds),
                    "sums of the first");
      }
    }
  }
}

TEST_F(CudaTables, RepeatsEmbeddingGradientsToTheBit) {
  const Tensor ids = mirrored(skewed_ids(20000, 3000, DType::i64, 0.3));
  const Tensor dy = mirrored(random_tensor({20000, 64}, DType::f32, 2));
  const Tensor first = embedding_backward(dy, ids, 3000).to(kCpu);
  for (int i = 0; i < 4; ++i) expect_same(embedding_backward(dy, ids, 3000), first, "again");
}

TEST_F(CudaTables, RefusesIndicesOutside) {
  const Tensor x = mirrored(random_tensor({4, 5}, DType::f32));
  const Tensor bad = mirrored(from_vector<int64_t>({0, 4}, {2}));
  const Tensor rows = mirrored(random_tensor({2, 5}, DType::f32));
  Tensor sums = mirrored(random_tensor({4, 5}, DType::f32));
  Tensor none = mirrored(empty({0, 5}));
  struct Call {
    const char* text;
    std::function<void()> run;
  };
  const std::vector<Call> calls{
      {"embedding: index 4 out of range [0, 4)", [&] { embedding(x, bad); }},
      {"embedding: index 4 out of range [0, 4)", [&] { embedding(x, bad, DType::bf16); }},
      {"gather: index 4 out of range [0, 4)", [&] { index_select(x, 0, bad); }},
      {"gather: index 4 out of range [0, 4)",
       [&] {
         gather(x, 0, bad.view({2, 1}));
       }},
      {"embedding_backward: index 4 out of range [0, 4)",
       [&] { embedding_backward(rows, bad, 4); }},
      {"embedding_backward: index", [&] { embedding_backward(rows, bad, 0); }},
      {"scatter_add: index 4 out of range [0, 4)", [&] { index_add_(sums, 0, bad, rows); }},
      {"scatter_add: index", [&] { index_add_(none, 0, bad, rows); }},
      {"scatter_add: index 4 out of range [0, 4)",
       [&] {
         scatter_add_(sums, 0, bad.view({2, 1}), rows.slice(1, 0, 1));
       }},
  };
  for (const Call& call : calls) {
    SCOPED_TRACE(call.text);
    call.run();  // does not wait for the GPU, and so cannot know
    try {
      current_stream(kGpu).synchronize();
      ADD_FAILURE() << "no error";
    } catch (const IndexError& error) {
      EXPECT_NE(std::string(error.what()).find(call.text), std::string::npos) << error.what();
    }
    current_stream(kGpu).synchronize();
  }
}

TEST_F(CudaTables, SumsUpAlongAnyAxis) {
  for (const DType dtype : kEveryDType) {
    // Lines for a warp, for a block, of several pieces, and none of whole packs.
    for (const Shape& shape : std::vector<Shape>{{1},
                                                 {15},
                                                 {3, 5000},
                                                 {5000, 3},
                                                 {4, 2049, 5},
                                                 {4100, 264},
                                                 {7, 1024},
                                                 {2, 70000},
                                                 {1, 131080},
                                                 {2, 70001},
                                                 {300, 264},
                                                 {3, 1000, 17},
                                                 {2, 64, 65536}}) {
      const Tensor x = random_of_type(shape, dtype, 1);
      for (int axis = 0; axis < x.rank(); ++axis) {
        for (const bool exclusive : {false, true}) {
          for (const bool reverse : {false, true}) {
            expect_rounded(cumsum(mirrored(x), axis, exclusive, reverse),
                           cumsum(x, axis, exclusive, reverse), "cumsum", 10);
          }
        }
      }
    }
  }
}

TEST_F(CudaTables, SumsUpAFewPieces) {
  // Of every kernel the least that more than one block takes part in.
  for (const DType dtype : {DType::bf16, DType::f32, DType::f64, DType::i64}) {
    for (const auto& [shape, axis] : std::vector<std::pair<Shape, int>>{
             {{2, 16392}, 1}, {{2, 8001}, 1}, {{600, 72}, 0}, {{2, 300, 16}, 1}, {{900, 3}, 0}}) {
      const Tensor x = random_of_type(shape, dtype, 4);
      for (const bool reverse : {false, true}) {
        expect_rounded(cumsum(mirrored(x), axis, /*exclusive=*/reverse, reverse),
                       cumsum(x, axis, reverse, reverse), "cumsum", 10);
      }
    }
  }
}

TEST_F(CudaTables, SumsUpManyTilesAndRepeatsThemToTheBit) {
  // Lines and strips of columns of more than a group of tiles; whole and ragged tiles and strips.
  for (const DType dtype : {DType::bf16, DType::f16, DType::f32, DType::f64, DType::i64}) {
    for (const auto& [shape, axis] : std::vector<std::pair<Shape, int>>{{{2, 2130008}, 1},
                                                                        {{17, 16384}, 1},
                                                                        {{5, 1032}, 1},
                                                                        {{9001, 72}, 0},
                                                                        {{3, 8192, 64}, 1},
                                                                        {{2, 257, 16}, 1}}) {
      const Tensor x = random_of_type(shape, dtype, 3);
      const Tensor on_gpu = mirrored(x);
      for (const bool exclusive : {false, true}) {
        for (const bool reverse : {false, true}) {
          SCOPED_TRACE(testing::Message() << to_string(dtype) << ", " << shape[0] << " x "
                                          << shape[1] << ", " << exclusive << reverse);
          const Tensor sums = cumsum(on_gpu, axis, exclusive, reverse);
          expect_rounded(sums, cumsum(x, axis, exclusive, reverse), "cumsum", 10);
          for (int i = 0; i < 3; ++i) {
            expect_same(cumsum(on_gpu, axis, exclusive, reverse), sums.to(kCpu), "again");
          }
        }
      }
    }
  }
}

TEST_F(CudaTables, SumsUpMoreTilesThanBlocks) {
  // Blocks take several tiles each, of one line or strip and of others.
  for (const DType dtype : {DType::bf16, DType::f32}) {
    for (const auto& [shape, axis] : std::vector<std::pair<Shape, int>>{
             {{3, 4200008}, 1}, {{1200, 8200}, 1}, {{33000, 520}, 0}}) {
      const Tensor x = random_of_type(shape, dtype, 5);
      const Tensor on_gpu = mirrored(x);
      for (const bool reverse : {false, true}) {
        const Tensor sums = cumsum(on_gpu, axis, /*exclusive=*/reverse, reverse);
        expect_rounded(sums, cumsum(x, axis, reverse, reverse), "cumsum", 10);
        for (int i = 0; i < 3; ++i) {
          expect_same(cumsum(on_gpu, axis, reverse, reverse), sums.to(kCpu), "again");
        }
      }
    }
  }
}

void expect_topk(const Tensor& x, int64_t k, int axis) {
  const TopK cpu = topk(x, k, axis);
  const TopK gpu = topk(mirrored(x), k, axis);
  expect_same(gpu.indices, cpu.indices, "indices");
  expect_same(gpu.values, cpu.values, "values");
}

TEST_F(CudaTables, FindsTheLargest) {
  for (const DType dtype : kEveryDType) {
    if (dtype == DType::boolean) continue;
    for (const int64_t length : {1, 2, 255, 257, 1000, 40000}) {
      for (const int64_t k : {1, 5, 64, 700, 6000}) {
        if (k > length) continue;
        SCOPED_TRACE(testing::Message() << to_string(dtype) << ", " << k << " of " << length);
        // Integers have many equals.
        expect_topk(random_of_type({5, length}, dtype, 1), k, -1);
      }
      expect_topk(random_of_type({2, length}, dtype, 2), length, -1);
    }
    for (const Tensor& x : in_all_layouts(random_of_type({6, 300, 4}, dtype, 3))) {
      for (int axis = 0; axis < 3; ++axis) expect_topk(x, 3, axis);
    }
  }
}

TEST_F(CudaTables, FindsFewOfTheLargestHoweverManyAreEqual) {
  for (const DType dtype : kFloating) {
    for (const int64_t length : {8, 64, 136, 512, 1024, 2048, 2056, 8192, 24000, 50304, 120000}) {
      for (const int64_t k : {1, 2, 8, 31, 32, 33, 100, 128, 129}) {
        if (k > length) continue;
        SCOPED_TRACE(testing::Message() << to_string(dtype) << ", " << k << " of " << length);
        expect_topk(random_tensor({5, length}, dtype, 1), k, -1);
        expect_topk(full({5, length}, -1, dtype), k, -1);
        // Few values; the largest at the end, which one thread has; all NaN but some.
        expect_topk(random_tensor({5, length}, DType::i32, 2, 0, 3).to(dtype), k, -1);
        Tensor x = full({5, length}, -std::numeric_limits<double>::infinity(), dtype);
        x.slice(1, length - 8, length).copy_(random_tensor({5, 8}, dtype, 3));
        expect_topk(x, k, -1);
        x.slice(1, 0, length - 8).fill_(std::numeric_limits<double>::quiet_NaN());
        expect_topk(x, k, -1);
      }
    }
  }
}

TEST_F(CudaTables, FindsTheLargestOfManyShortRows) {
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    for (const int64_t length :
         {1, 2, 3, 7, 8, 60, 64, 65, 72, 128, 200, 256, 264, 320, 512, 520}) {
      const Tensor wide = random_tensor({300, length + 8}, dtype, 1);
      // Few values, both zeros among them.
      const Tensor equal = random_tensor({300, length}, DType::i32, 2, -1, 2).to(dtype);
      const Tensor zeros = mul(equal, -1);
      for (const int64_t k : {1, 2, 3, 4, 6, 8, 9, 16, 17}) {
        if (k > length) continue;
        SCOPED_TRACE(testing::Message() << to_string(dtype) << ", " << k << " of " << length);
        expect_topk(wide.slice(1, 0, length).contiguous(), k, -1);
        expect_topk(wide.slice(1, 0, length), k, -1);
        expect_topk(wide.slice(1, 3, length + 3), k, -1);
        expect_topk(equal, k, -1);
        expect_topk(zeros, k, -1);
      }
    }
  }
}

TEST_F(CudaTables, FindsTheLargestOfManyLongRows) {
  // More rows than blocks run at a time. Halves have equals among the largest.
  for (const DType dtype : {DType::bf16, DType::f16, DType::f32}) {
    for (const Shape& shape :
         std::vector<Shape>{{1001, 1032}, {601, 2048}, {900, 4104}, {450, 16384}}) {
      const Tensor x = random_tensor(shape, dtype, 6);
      for (const int64_t k : {1, 2, 16, 20, 28, 29, 50, 128}) {
        SCOPED_TRACE(testing::Message() << to_string(dtype) << ", " << k << " of " << shape[1]);
        expect_topk(x, k, -1);
      }
      expect_topk(x.slice(1, 8, shape[1]), 16, -1);
    }
  }
}

TEST_F(CudaTables, OrdersNanZerosAndInfinity) {
  const double inf = std::numeric_limits<double>::infinity();
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const std::vector<double> some{0.0, -0.0, nan, inf, -inf, 1.0, -1.0, 0.0, nan, -inf, inf, 1e-7};
  for (const DType dtype : kFloating) {
    for (const int64_t repeat : {1, 40}) {
      const auto count = static_cast<int64_t>(some.size());
      const Tensor x =
          from_vector(some, {1, count}).to(dtype).expand({repeat, count}).reshape({1, -1});
      for (const int64_t k : {1, 3, 9, 12}) expect_topk(x, k * repeat, -1);
    }
  }
}

}  // namespace
}  // namespace weft
