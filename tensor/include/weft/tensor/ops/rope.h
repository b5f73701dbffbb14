#pragma once

#include <cstdint>

#include "weft/tensor/tensor.h"

namespace weft {

// Rotary position embedding (Su et al., "RoFormer", 2021), half-split: with phi_i = position *
// theta^(-2i/R) for i < R/2, the pair (x_i, x_{i+R/2}) turns by phi_i. Of D channels the R from
// rotary_begin on turn; the others stay. Angles are computed in f64; the table of their cosines and
// sines and the products are f32 (f64 for f64).

/// Which channels turn, and by how much.
struct RopeOptions {
  double theta = 10000;      ///< base of the frequencies
  int64_t rotary_begin = 0;  ///< first channel that turns
  int64_t rotary_dim = 0;    ///< R, even; 0 means all channels from rotary_begin on
  int64_t offset = 0;        ///< position of the first token, where `positions` is undefined
  int64_t stride = 1;     ///< from one token's position to the next, where `positions` is undefined
  Tensor positions = {};  ///< i64 [T] or [B, T], at least 0; see below for where to keep them
  Tensor table = {};      ///< see rope_table(); undefined means the cached one of theta and R
};

/// [positions, R], row p: the cosines of its R/2 angles, then their sines. f32 or f64.
Tensor rope_table(double theta, int64_t rotary_dim, int64_t positions, DType dtype = DType::f32,
                  Device device = kCpu);

/// The same with at least as many positions, up to 2^20, from the tables that rope() keeps.
Tensor shared_rope_table(double theta, int64_t rotary_dim, int64_t positions,
                         DType dtype = DType::f32, Device device = kCpu);

/// x: [B, T, H, D] of a floating type, in any layout. Gives a dense tensor. Throws ShapeError,
/// DTypeError, ConfigError, and IndexError on a negative position or one beyond `options.table`.
/// Positions on a GPU are read by the kernel alone where a table is given, and the next wait for
/// the GPU throws the IndexError; without a table they are copied to the CPU first.
Tensor rope(const Tensor& x, const RopeOptions& options = {});

/// The gradient of x, given dy = that of rope(x): turns back.
Tensor rope_backward(const Tensor& dy, const RopeOptions& options = {});

/// In place.
void rope_(Tensor& x, const RopeOptions& options = {});

/// rope(x), or rope_backward(x) where `inverse`, into a tensor of x's shape and type that may be a
/// view of any layout, also of x's own elements.
void rope_into(Tensor& out, const Tensor& x, const RopeOptions& options = {}, bool inverse = false);

/// Queries, keys and values of attention.
struct Qkv {
  Tensor q;  ///< [B, T, H, D]
  Tensor k;  ///< [B, T, Hk, D]
  Tensor v;  ///< [B, T, Hk, Dv]
};

/// How queries, keys and values lie behind one another on the last axis of one projection.
struct QkvSplit {
  int64_t heads = 1;           ///< H
  int64_t kv_heads = 1;        ///< Hk
  int64_t head_dim = 1;        ///< D
  int64_t value_head_dim = 0;  ///< Dv; 0 means D

  int64_t dv() const { return value_head_dim == 0 ? head_dim : value_head_dim; }
  int64_t width() const { return (heads + kv_heads) * head_dim + kv_heads * dv(); }
};

/// The three parts of packed [B, T, H*D + Hk*D + Hk*Dv], as views.
Qkv split_qkv(const Tensor& packed, const QkvSplit& split);

/// The gradient of packed, given those of its parts, of which some may be undefined (zero).
Tensor split_qkv_backward(const Qkv& grads, const Shape& packed_shape, DType dtype,
                          const QkvSplit& split);

/// split_qkv() with q and k turned (dense copies); v is a view.
Qkv rope_qkv(const Tensor& packed, const QkvSplit& split, const RopeOptions& options = {});

/// The gradient of packed, given those of q, k and v, of which some may be undefined (zero).
Tensor rope_qkv_backward(const Qkv& grads, const Shape& packed_shape, DType dtype,
                         const QkvSplit& split, const RopeOptions& options = {});

}  // namespace weft
