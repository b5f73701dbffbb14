#pragma once

#include "weft/tensor/tensor.h"

namespace weft {

// Reductions over some axes of a tensor. Empty `axes` mean all of them. The reduced axes disappear
// from the result, or stay with size 1 if `keepdim`. All throw ShapeError on an axis that is out of
// range or given twice. Results do not depend on the number of threads. Sums of f32, bf16 and f16
// keep at least 32 bits, and blocks of a thousand elements are added up in 64 bits on the CPU, so
// that long sums stay accurate.

/// Sum. Floating types stay; integers and bool (which counts) give i64. 0 over no elements.
Tensor sum(const Tensor& x, const Axes& axes = {}, bool keepdim = false);

/// Arithmetic mean of a floating tensor; NaN over no elements.
Tensor mean(const Tensor& x, const Axes& axes = {}, bool keepdim = false);

/// Largest element, of any type but bool. NaN if there is one. Throws ShapeError over no elements.
Tensor max(const Tensor& x, const Axes& axes = {}, bool keepdim = false);

/// Smallest element; otherwise like max().
Tensor min(const Tensor& x, const Axes& axes = {}, bool keepdim = false);

/// Variance of a floating tensor: squared distances from the mean, over n - correction (1: the
/// unbiased estimate; 0: the population's). NaN where n <= correction.
Tensor var(const Tensor& x, const Axes& axes = {}, int correction = 1, bool keepdim = false);

/// (sum |x|^p)^(1/p) of a floating tensor; p = infinity gives the largest magnitude. 0 over no
/// elements. Throws ConfigError unless p > 0.
Tensor norm(const Tensor& x, const Axes& axes = {}, double p = 2, bool keepdim = false);

/// log(sum(exp(x))) of a floating tensor, safe against overflow; -infinity over no elements and
/// where all are -infinity.
Tensor logsumexp(const Tensor& x, const Axes& axes = {}, bool keepdim = false);

/// Whether an element is not 0 (NaN is not 0), as bool; false over no elements.
Tensor any(const Tensor& x, const Axes& axes = {}, bool keepdim = false);

/// Whether no element is 0, as bool; true over no elements.
Tensor all(const Tensor& x, const Axes& axes = {}, bool keepdim = false);

/// Index (i64) of the largest element along `axis`; the first among equals, and the first NaN where
/// there is one. Takes any type but bool. Throws ShapeError if `axis` has no elements.
Tensor argmax(const Tensor& x, int axis, bool keepdim = false);

/// Index (i64) of the smallest element along `axis`; otherwise like argmax().
Tensor argmin(const Tensor& x, int axis, bool keepdim = false);

}  // namespace weft
