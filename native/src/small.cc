// Compiled once for each set of instructions, VARIANT: so nothing of the standard library is used that another file of
// the library could be given in this one's instructions.

#include "small.h"

namespace small {
namespace VARIANT {
namespace {

template <typename Real>
struct Register {
  typedef Real Vector __attribute__((vector_size(32), aligned(sizeof(Real)), may_alias));
  static constexpr int64_t width = 32 / sizeof(Real);
};

constexpr int64_t kRows = 4;     // that are kept in registers at once, and half as many of complex numbers
constexpr int64_t kAtOnce = 16;  // terms of a sum

template <typename Real>
struct Operands {
  int64_t k;
  const Real* lhs;
  int64_t lhs_m, lhs_k;
  const Real* rhs;  // rows of whole registers; where there are two parts, all of the one and then all of the other
  int64_t rhs_k, rhs_part;
};

// Some rows by one or two registers of columns. Sums of kAtOnce terms are added to one another: less is lost than in one.
template <typename Real, int Rows, int Columns>
inline void real_tile(const Operands<Real>& of, typename Register<Real>::Vector (&sums)[Rows][Columns]) {
  typedef typename Register<Real>::Vector Vector;
  for (int64_t first = 0; first < of.k; first += kAtOnce) {
    Vector total[Rows][Columns] = {};
    const int64_t end = first + kAtOnce < of.k ? first + kAtOnce : of.k;
    for (int64_t k = first; k < end; ++k) {
      const Vector* right = reinterpret_cast<const Vector*>(of.rhs + k * of.rhs_k);
      Vector b[Columns];
      for (int column = 0; column < Columns; ++column) b[column] = right[column];
      for (int row = 0; row < Rows; ++row) {
        Real a = of.lhs[row * of.lhs_m + k * of.lhs_k];
        for (int column = 0; column < Columns; ++column) total[row][column] += a * b[column];
      }
    }
    for (int row = 0; row < Rows; ++row) {
      for (int column = 0; column < Columns; ++column) sums[row][column] += total[row][column];
    }
  }
}

// Some rows by one register of columns, of which each sum has two parts.
template <typename Real, int Rows>
inline void complex_tile(const Operands<Real>& of, typename Register<Real>::Vector (&sums)[Rows][2]) {
  typedef typename Register<Real>::Vector Vector;
  for (int64_t first = 0; first < of.k; first += kAtOnce) {
    Vector total[Rows][4] = {};  // of real and imaginary parts by real and imaginary parts
    const int64_t end = first + kAtOnce < of.k ? first + kAtOnce : of.k;
    for (int64_t k = first; k < end; ++k) {
      Vector b = *reinterpret_cast<const Vector*>(of.rhs + k * of.rhs_k);
      Vector c = *reinterpret_cast<const Vector*>(of.rhs + k * of.rhs_k + of.rhs_part);
      for (int row = 0; row < Rows; ++row) {
        const Real* a = of.lhs + row * of.lhs_m + k * of.lhs_k;
        total[row][0] += a[0] * b;
        total[row][1] += a[1] * c;
        total[row][2] += a[0] * c;
        total[row][3] += a[1] * b;
      }
    }
    for (int row = 0; row < Rows; ++row) {
      sums[row][0] += total[row][0] - total[row][1];
      sums[row][1] += total[row][2] + total[row][3];
    }
  }
}

template <typename Real, int Rows, int Columns>
inline void real_rows(const Operands<Real>& of, int64_t columns, Real* out, int64_t out_m) {
  typedef typename Register<Real>::Vector Vector;
  constexpr int64_t width = Register<Real>::width;
  Vector sums[Rows][Columns] = {};
  real_tile<Real, Rows, Columns>(of, sums);
  for (int row = 0; row < Rows; ++row) {
    Real* to = out + row * out_m;
    if (columns >= Columns * width) {
      for (int column = 0; column < Columns; ++column) reinterpret_cast<Vector*>(to)[column] = sums[row][column];
    } else {
      for (int64_t i = 0; i < columns; ++i) to[i] = sums[row][i / width][i % width];
    }
  }
}

template <typename Real, int Rows>
inline void complex_rows(const Operands<Real>& of, int64_t columns, Real* out, int64_t out_m) {
  typename Register<Real>::Vector sums[Rows][2] = {};
  complex_tile<Real, Rows>(of, sums);
  for (int row = 0; row < Rows; ++row) {
    for (int64_t i = 0; i < columns && i < Register<Real>::width; ++i) {
      out[row * out_m + 2 * i] = sums[row][0][i];
      out[row * out_m + 2 * i + 1] = sums[row][1][i];
    }
  }
}

template <typename Real, int Rows>
inline void rows(int parts, Operands<Real> of, int64_t n, Real* out, int64_t out_m) {
  constexpr int64_t width = Register<Real>::width;
  const Real* first = of.rhs;
  for (int64_t column = 0; column < n;) {
    of.rhs = first + column;
    if (parts == 2) {
      complex_rows<Real, Rows>(of, n - column, out + 2 * column, out_m);
      column += width;
    } else if (n - column > width) {
      real_rows<Real, Rows, 2>(of, n - column, out + column, out_m);
      column += 2 * width;
    } else {
      real_rows<Real, Rows, 1>(of, n - column, out + column, out_m);
      column += width;
    }
  }
}

// Lays rhs out in rows of whole registers, the last padded by zeros, its two parts apart.
template <typename Real>
inline void lay_out(int parts, int64_t k, int64_t n, const Real* rhs, int64_t rhs_k, int64_t rhs_n, Real* to,
                    int64_t row) {
  for (int part = 0; part < parts; ++part, to += k * row) {
    const Real* from = rhs + part;
    for (int64_t i = 0; i < k; ++i) {
      for (int64_t j = 0; j < n; ++j) to[i * row + j] = from[(i * rhs_k + j * rhs_n) * parts];
      for (int64_t j = n; j < row; ++j) to[i * row + j] = 0;
    }
  }
}

template <typename Real>
inline void multiply(int parts, int64_t m, int64_t n, int64_t k, const Real* lhs, int64_t lhs_m, int64_t lhs_k,
                     const Real* rhs, int64_t rhs_k, int64_t rhs_n, Real* out, int64_t out_m) {
  constexpr int64_t width = Register<Real>::width;
  const int64_t pair = 2 * width, row = (n + pair - 1) / pair * pair;
  Real laid_out[2 * kBuffer];
  Operands<Real> of{k, lhs, lhs_m * parts, lhs_k * parts, rhs, rhs_k, k * row};
  if (parts == 2 || rhs_n != 1 || row != n) {
    lay_out(parts, k, n, rhs, rhs_k, rhs_n, laid_out, row);
    of.rhs = laid_out;
    of.rhs_k = row;
  }
  out_m *= parts;
  const int64_t step = kRows / parts;
  int64_t done = 0;
  for (; done + step <= m; done += step, of.lhs += step * of.lhs_m, out += step * out_m) {
    if (parts == 2) {
      rows<Real, kRows / 2>(parts, of, n, out, out_m);
    } else {
      rows<Real, kRows>(parts, of, n, out, out_m);
    }
  }
  switch (m - done) {
    case 3:
      return rows<Real, 3>(parts, of, n, out, out_m);
    case 2:
      return rows<Real, 2>(parts, of, n, out, out_m);
    case 1:
      return rows<Real, 1>(parts, of, n, out, out_m);
    default:
      return;
  }
}

}  // namespace

void multiply_float(int parts, int64_t m, int64_t n, int64_t k, const float* lhs, int64_t lhs_m, int64_t lhs_k,
                    const float* rhs, int64_t rhs_k, int64_t rhs_n, float* out, int64_t out_m) {
  multiply(parts, m, n, k, lhs, lhs_m, lhs_k, rhs, rhs_k, rhs_n, out, out_m);
}

void multiply_double(int parts, int64_t m, int64_t n, int64_t k, const double* lhs, int64_t lhs_m, int64_t lhs_k,
                     const double* rhs, int64_t rhs_k, int64_t rhs_n, double* out, int64_t out_m) {
  multiply(parts, m, n, k, lhs, lhs_m, lhs_k, rhs, rhs_k, rhs_n, out, out_m);
}

}  // namespace VARIANT
}  // namespace small
