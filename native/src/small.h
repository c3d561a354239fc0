// Products by a small matrix, for which a call of BLAS takes longer to begin than to end: a kernel in registers.

#pragma once

#include <cstdint>

namespace small {

constexpr int64_t kLongest = 128;   // terms of a small product, at most
constexpr int64_t kBuffer = 4096;   // elements of its rhs, which is laid out anew, padded to whole registers
constexpr int64_t kFarthest = 512;  // elements from one term of lhs to the next, at most: farther ones share cache lines

// out[m, n] = sum_k lhs[m, k] * rhs[k, n], of numbers of two parts where `parts` is 2, as complex ones are; strides in
// numbers; the columns of out are next to each other.
template <typename Real>
using Kernel = void(int parts, int64_t m, int64_t n, int64_t k, const Real* lhs, int64_t lhs_m, int64_t lhs_k,
                    const Real* rhs, int64_t rhs_k, int64_t rhs_n, Real* out, int64_t out_m);

// One for any processor of its kind, one for AVX2 and FMA, each compiled from small.cc.
#define JBDOT_SMALL_KERNELS(variant)          \
  namespace variant {                         \
  extern Kernel<float> multiply_float;        \
  extern Kernel<double> multiply_double;      \
  }
JBDOT_SMALL_KERNELS(any)
JBDOT_SMALL_KERNELS(avx2)
#undef JBDOT_SMALL_KERNELS

}  // namespace small
