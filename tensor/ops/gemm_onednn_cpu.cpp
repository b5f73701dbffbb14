#include <algorithm>
#include <array>
#include <bit>
#include <memory>
#include <mutex>
#include <string_view>
#include <unordered_map>
#include <vector>

#include <dnnl.hpp>

#include "weft/tensor/check.h"
#include "weft/tensor/parallel.h"
#include "weft/tensor/tensor.h"

#include "ops/derived_cache.h"
#include "ops/gemm_cpu.h"
#include "ops/lru_cache.h"
#include "thread_team.h"

namespace weft::cpu {
namespace {

const dnnl::engine& engine() {
  static const dnnl::engine cpu(dnnl::engine::kind::cpu, 0);
  return cpu;
}

/// Everything that a primitive depends on.
using Key = std::array<int64_t, 19>;

struct Primitive {
  dnnl::memory::desc a, b, c, bias, scratchpad;
  dnnl::matmul matmul;
};

dnnl::memory::data_type data_type(DType dtype) {
  return dtype == DType::bf16 ? dnnl::memory::data_type::bf16 : dnnl::memory::data_type::f32;
}

dnnl::memory::desc describe_operand(const MatrixView& view, int64_t batch, int64_t rows,
                                    int64_t columns) {
  if (batch == 1)
    return {{rows, columns}, data_type(view.dtype), {view.row_stride, view.column_stride}};
  const bool repeated = view.batch_stride == 0;
  return {{repeated ? 1 : batch, rows, columns},
          data_type(view.dtype),
          {repeated ? rows * columns : view.batch_stride, view.row_stride, view.column_stride}};
}

/// An empty description stands for no bias.
dnnl::memory::desc describe_bias(const GemmCall& call) {
  if (call.bias.data == nullptr) return {};
  if (call.batch == 1) return {{1, call.n}, data_type(call.bias.dtype), {call.n, 1}};
  return {{1, 1, call.n}, data_type(call.bias.dtype), {call.n, call.n, 1}};
}

/// Of inner sizes, 63 is the one that oneDNN 2.6 gets wrong in bf16 on CPUs with AMX: the pair that
/// completes 64 is read from scratch that nobody wrote, or tiles are loaded that were not set up.
bool is_miscomputed(const GemmCall& call) {
  return call.a.dtype == DType::bf16 && call.k == 63;
}

/// With `any_b` the library chooses the layout of b. Null where it has no fast kernel, or a wrong
/// one.
std::shared_ptr<const Primitive> make_primitive(const GemmCall& call, bool any_b) {
  if (is_miscomputed(call)) return nullptr;
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  dnnl::post_ops steps;
#if DNNL_VERSION_MAJOR >= 3
  if (call.alpha != 1)
    steps.append_eltwise(dnnl::algorithm::eltwise_linear, static_cast<float>(call.alpha), 0.0f);
#else
  if (call.alpha != 1)
    steps.append_eltwise(1.0f, dnnl::algorithm::eltwise_linear, static_cast<float>(call.alpha),
                         0.0f);
#endif
  if (call.beta != 0) steps.append_sum(static_cast<float>(call.beta));
  attributes.set_post_ops(steps);
  const auto a = describe_operand(call.a, call.batch, call.m, call.k);
  const auto b = any_b ? dnnl::memory::desc({call.k, call.n}, data_type(call.a.dtype),
                                            dnnl::memory::format_tag::any)
                       : describe_operand(call.b, call.batch, call.k, call.n);
  const auto c = describe_operand(call.c, call.batch, call.m, call.n);
  const auto bias = describe_bias(call);
  try {
#if DNNL_VERSION_MAJOR >= 3
    const dnnl::matmul::primitive_desc plan(engine(), a, b, bias, c, attributes);
#else
    const dnnl::matmul::primitive_desc plan(dnnl::matmul::desc(a, b, bias, c), attributes,
                                            engine());
#endif
    // The reference implementation is hundreds of times slower than the others.
    if (std::string_view(plan.impl_info_str()).find("ref") != std::string_view::npos)
      return nullptr;
    return std::make_shared<Primitive>(
        Primitive{a, plan.weights_desc(), c, bias, plan.scratchpad_desc(), dnnl::matmul(plan)});
  } catch (const dnnl::error& error) {
    if (error.status == dnnl_unimplemented) return nullptr;
    throw;
  }
}

std::shared_ptr<const Primitive> find_primitive(const GemmCall& call, bool any_b) {
  constexpr size_t kCapacity = 1024;
  static LruCache<Key, std::shared_ptr<const Primitive>, NumbersHash> cache(kCapacity);
  const MatrixView b = any_b ? MatrixView{} : call.b;
  const Key key = {call.batch,
                   call.m,
                   call.n,
                   call.k,
                   static_cast<int64_t>(call.a.dtype),
                   static_cast<int64_t>(call.c.dtype),
                   call.a.batch_stride,
                   call.a.row_stride,
                   call.a.column_stride,
                   b.batch_stride,
                   b.row_stride,
                   b.column_stride,
                   call.c.batch_stride,
                   call.c.row_stride,
                   call.c.column_stride,
                   std::bit_cast<int64_t>(call.alpha),
                   std::bit_cast<int64_t>(call.beta),
                   call.bias.data != nullptr,
                   num_threads()};
  return cache.get_or_make(key, [&] { return make_primitive(call, any_b); });
}

dnnl::memory memory_at(const dnnl::memory::desc& description, void* data) {
  return {description, engine(), data};
}

/// `b` is laid out as the primitive says.
void execute(const Primitive& primitive, const GemmCall& call, void* b) {
  const Tensor scratch = empty({static_cast<int64_t>(primitive.scratchpad.get_size())}, DType::u8);
  std::unordered_map<int, dnnl::memory> arguments{
      {DNNL_ARG_SRC, memory_at(primitive.a, call.a.data)},
      {DNNL_ARG_WEIGHTS, memory_at(primitive.b, b)},
      {DNNL_ARG_DST, memory_at(primitive.c, call.c.data)},
      {DNNL_ARG_SCRATCHPAD, memory_at(primitive.scratchpad, scratch.raw_data())}};
  if (call.bias.data != nullptr)
    arguments.emplace(DNNL_ARG_BIAS, memory_at(primitive.bias, call.bias.data));
  dnnl::stream stream(engine());
  rest_own_threads();
  primitive.matmul.execute(stream, arguments);
}

/// A small number for each layout that was ever chosen for a packed weight.
int64_t layout_number(const dnnl::memory::desc& layout) {
  static std::mutex mutex;
  static std::vector<dnnl::memory::desc> known;
  const std::lock_guard lock(mutex);
  const auto found = std::find(known.begin(), known.end(), layout);
  const auto number = found - known.begin();
  if (found == known.end()) known.push_back(layout);
  return number;
}

DerivedCache<Tensor>& packed_weights() {
  static DerivedCache<Tensor> cache;
  return cache;
}

/// The elements of an f32 matrix in this layout.
Tensor pack(const Tensor& matrix, const dnnl::memory::desc& layout) {
  Tensor packed = empty({static_cast<int64_t>(layout.get_size())}, DType::u8);
  dnnl::memory from = memory_at({{matrix.size(0), matrix.size(1)},
                                 dnnl::memory::data_type::f32,
                                 {matrix.stride(0), matrix.stride(1)}},
                                matrix.raw_data());
  dnnl::memory to = memory_at(layout, packed.raw_data());
  dnnl::stream stream(engine());
  rest_own_threads();
  dnnl::reorder(from, to).execute(stream, from, to);
  return packed;
}

/// Whether dnnl_sgemm beats the matmul primitive: measured on AVX-512 machines with oneDNN 2.6.
bool prefers_sgemm(const GemmCall& call) {
  constexpr int64_t kShallow = 512;
  if (call.a.dtype != DType::f32 || call.batch != 1 || call.bias.data != nullptr) return false;
  const bool transpose_a = call.a.column_stride != 1, transpose_b = call.b.column_stride != 1;
  return !transpose_a && (!transpose_b || call.k < kShallow);
}

void run_sgemm(const GemmCall& call) {
  const bool transpose_a = call.a.column_stride != 1, transpose_b = call.b.column_stride != 1;
  rest_own_threads();
  const dnnl_status_t status =
      dnnl_sgemm(transpose_a ? 'T' : 'N', transpose_b ? 'T' : 'N', call.m, call.n, call.k,
                 static_cast<float>(call.alpha), call.a.as<const float>(),
                 transpose_a ? call.a.column_stride : call.a.row_stride, call.b.as<const float>(),
                 transpose_b ? call.b.column_stride : call.b.row_stride,
                 static_cast<float>(call.beta), call.c.as<float>(), call.c.row_stride);
  WEFT_CHECK(status == dnnl_success, Error, "matmul: dnnl_sgemm failed with status {}",
             static_cast<int>(status));
}

}  // namespace

bool gemm_onednn(const GemmCall& call) {
  if (call.a.dtype != DType::f32 && call.a.dtype != DType::bf16) return false;
  if (prefers_sgemm(call)) {
    run_sgemm(call);
    return true;
  }
  const std::shared_ptr<const Primitive> primitive = find_primitive(call, /*any_b=*/false);
  if (primitive == nullptr) return false;
  execute(*primitive, call, call.b.data);
  return true;
}

bool gemm_onednn_weight(const GemmCall& call, const Tensor& weight) {
  const std::shared_ptr<const Primitive> primitive = find_primitive(call, /*any_b=*/true);
  if (primitive == nullptr) return false;
  const Tensor packed = packed_weights().get_or_make(weight, layout_number(primitive->b),
                                                     [&] { return pack(weight, primitive->b); });
  execute(*primitive, call, packed.raw_data());
  return true;
}

void clear_packed_weights_onednn() {
  packed_weights().clear();
}

}  // namespace weft::cpu
