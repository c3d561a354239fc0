// A dot of two strided arrays as calls of BLAS (gemm, gemv), shared out over XLA's own threads.
//
// The routines come from SciPy, by address (`jbdot_native_link`). What is called is said by one attribute, `plan`, that
// `jbdot_native/plan.py` writes: sizes and strides, in elements, of one matrix product, of the loops around it, and of the
// loops over what is summed beyond it.

#include <algorithm>
#include <atomic>
#include <complex>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "small.h"
#include "xla/ffi/api/ffi.h"

#if defined(_WIN32)
#define EXPORTED extern "C" __declspec(dllexport)
#else
#define EXPORTED extern "C" __attribute__((visibility("default")))
#endif

namespace ffi = xla::ffi;

namespace {

template <typename T>
using Gemm = void(char*, char*, int*, int*, int*, T*, T*, int*, T*, int*, T*, T*, int*);
template <typename T>
using Gemv = void(char*, int*, int*, T*, T*, int*, T*, int*, T*, T*, int*);

template <typename T>
struct Routines {
  static inline Gemm<T>* gemm = nullptr;
  static inline Gemv<T>* gemv = nullptr;
};

// A number is one or two reals.
template <typename T>
struct Parts {
  using Real = T;
  static constexpr int count = 1;
};
template <typename R>
struct Parts<std::complex<R>> {
  using Real = R;
  static constexpr int count = 2;
};

template <typename Real>
small::Kernel<Real>* small_kernel() {
#if defined(JBDOT_AVX2)
  static const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#define JBDOT_PICKED(name) (has_avx2 ? small::avx2::name : small::any::name)
#else
#define JBDOT_PICKED(name) small::any::name
#endif
  if constexpr (sizeof(Real) == sizeof(float)) {
    return JBDOT_PICKED(multiply_float);
  } else {
    return JBDOT_PICKED(multiply_double);
  }
#undef JBDOT_PICKED
}

constexpr int64_t kAlone = 1 << 18;      // multiply-adds that one thread does sooner than two
constexpr int kSpins = 4096;             // looks at whether others are done, before sleeping until they are
constexpr int64_t kTasksPerThread = 4;   // so that a slow thread is waited for no longer than a quarter of its part
constexpr int64_t kNarrowest = 32;       // rows or columns of a piece of a matrix
constexpr int64_t kRounding = 16;        // of these: what kernels take at once
constexpr int64_t kShortest = 2048;      // terms of a piece of a long sum
constexpr int64_t kMostSums = 8;         // pieces of a long sum, on any machine: so bits depend on no number of threads
constexpr int64_t kSmallResult = 4096;   // elements of a result whose long sums are cut

// OpenBLAS has one number of threads for a process. It is 1 while a dot runs, and then what it was.
struct Threads {
  static inline int (*get)() = nullptr;
  static inline void (*set)(int) = nullptr;
  static inline std::mutex mutex;
  static inline int inside = 0;
  static inline int before = 1;
};

class OneThread {
 public:
  OneThread() {
    std::lock_guard<std::mutex> lock(Threads::mutex);
    if (Threads::inside++ == 0) {
      Threads::before = Threads::get();
      if (Threads::before != 1) Threads::set(1);
    }
  }
  ~OneThread() {
    std::lock_guard<std::mutex> lock(Threads::mutex);
    // Whoever has set another number in the meantime keeps it.
    if (--Threads::inside == 0 && Threads::before != 1 && Threads::get() == 1) Threads::set(Threads::before);
  }
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;
};

// Runs body(0) ... body(count - 1) on the calling thread and on those of XLA's that are free. No task is waited for that
// has not begun: the caller does what nobody else does, so that a pool whose threads all wait comes to an end.
template <typename Body>
void parallel(ffi::ThreadPool& pool, int64_t count, const Body& body) {
  int64_t threads = std::min<int64_t>(pool.num_threads(), count);
  if (threads <= 1) {
    for (int64_t i = 0; i < count; ++i) body(i);
    return;
  }
  struct State {
    std::atomic<int64_t> next{0};
    std::atomic<int64_t> done{0};
    std::mutex mutex;
    std::condition_variable all_done;
  };
  auto state = std::make_shared<State>();
  auto work = [state, count, &body] {
    for (int64_t i; (i = state->next.fetch_add(1)) < count;) {
      body(i);
      if (state->done.fetch_add(1) + 1 == count) {
        std::lock_guard<std::mutex> lock(state->mutex);
        state->all_done.notify_all();
      }
    }
  };
  for (int64_t thread = 1; thread < threads; ++thread) pool.Schedule(decltype(work)(work));
  work();
  for (int i = 0; i < kSpins && state->done.load() < count; ++i) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }
  if (state->done.load() == count) return;
  std::unique_lock<std::mutex> lock(state->mutex);
  state->all_done.wait(lock, [&] { return state->done.load() == count; });
}

// Sizes and strides, in elements.
struct Loop {
  int64_t size, lhs, rhs, out;
};

struct Product {
  int64_t m, n, k;
  int64_t lhs_m, lhs_k, rhs_k, rhs_n, out_m, out_n;
};

struct Plan {
  Product product;
  std::vector<Loop> loops;  // each step has a result of its own
  std::vector<Loop> sums;   // each step is added to the same result

  static Plan read(ffi::Span<const int64_t> of) {
    const int64_t* at = of.begin();
    Plan plan;
    plan.product = {at[0], at[1], at[2], at[3], at[4], at[5], at[6], at[7], at[8]};
    int64_t loops = at[9];
    for (at += 10; at != of.end(); at += 4) {
      (loops-- > 0 ? plan.loops : plan.sums).push_back({at[0], at[1], at[2], at[3]});
    }
    return plan;
  }
};

int64_t steps(const std::vector<Loop>& loops) {
  int64_t count = 1;
  for (const Loop& loop : loops) count *= loop.size;
  return count;
}

// Where a step of nested loops begins in each array.
Loop offset(const std::vector<Loop>& loops, int64_t step) {
  Loop found{0, 0, 0, 0};
  for (auto loop = loops.rbegin(); loop != loops.rend(); ++loop) {
    int64_t index = step % loop->size;
    step /= loop->size;
    found.lhs += index * loop->lhs;
    found.rhs += index * loop->rhs;
    found.out += index * loop->out;
  }
  return found;
}

// out[n] (+)= sum_k vector[k] * matrix[k, n]
template <typename T>
void vector_by_matrix(int64_t n, int64_t k, const T* vector, int64_t vector_k, const T* matrix, int64_t matrix_k,
                      int64_t matrix_n, T* out, int64_t out_n, bool adds) {
  T one(1), beta(adds ? 1 : 0);
  bool turned = matrix_k == 1 && (matrix_n != 1 || n == 1);  // k is next in memory: dots of columns
  int rows = static_cast<int>(turned ? k : n), columns = static_cast<int>(turned ? n : k);
  int leading = static_cast<int>(std::max<int64_t>(turned ? matrix_n : matrix_k, std::max(rows, 1)));
  int from = static_cast<int>(std::max<int64_t>(vector_k, 1)), to = static_cast<int>(std::max<int64_t>(out_n, 1));
  char trans = turned ? 'T' : 'N';
  Routines<T>::gemv(&trans, &rows, &columns, &one, const_cast<T*>(matrix), &leading, const_cast<T*>(vector), &from, &beta,
                    out, &to);
}

// Whether rhs stays in the nearest cache while the rows of lhs go by, which are read as they lie.
bool is_small(const Product& p) {
  bool lies = p.lhs_k == 1 || p.lhs_k <= small::kFarthest;
  return p.m > 1 && p.n > 1 && p.k <= small::kLongest && p.k * ((p.n + 15) / 16 * 16) <= small::kBuffer && lies;
}

// out[m, n] (+)= sum_k lhs[m, k] * rhs[k, n]
template <typename T>
void multiply(const Product& p, const T* lhs, const T* rhs, T* out, bool adds) {
  if (!adds && is_small(p)) {
    using Real = typename Parts<T>::Real;
    return small_kernel<Real>()(Parts<T>::count, p.m, p.n, p.k, reinterpret_cast<const Real*>(lhs), p.lhs_m, p.lhs_k,
                                reinterpret_cast<const Real*>(rhs), p.rhs_k, p.rhs_n, reinterpret_cast<Real*>(out),
                                p.out_m);
  }
  if (p.m == 1 && (p.n > 1 || p.rhs_k == 1)) {
    return vector_by_matrix(p.n, p.k, lhs, p.lhs_k, rhs, p.rhs_k, p.rhs_n, out, p.out_n, adds);
  }
  if (p.n == 1) {
    return vector_by_matrix(p.m, p.k, rhs, p.rhs_k, lhs, p.lhs_k, p.lhs_m, out, p.out_m, adds);
  }
  // BLAS counts columns first: it is told out^T = rhs^T lhs^T.
  bool lhs_turned = p.lhs_k != 1 && p.k != 1, rhs_turned = p.rhs_n != 1;
  int m = static_cast<int>(p.m), n = static_cast<int>(p.n), k = static_cast<int>(p.k);
  int lhs_leading = static_cast<int>(std::max<int64_t>(lhs_turned ? p.lhs_k : p.lhs_m, lhs_turned ? p.m : p.k));
  int rhs_leading = static_cast<int>(std::max<int64_t>(rhs_turned ? p.rhs_n : p.rhs_k, rhs_turned ? p.k : p.n));
  int out_leading = static_cast<int>(std::max(p.out_m, p.n));
  char rhs_trans = rhs_turned ? 'T' : 'N', lhs_trans = lhs_turned ? 'T' : 'N';
  T one(1), beta(adds ? 1 : 0);
  Routines<T>::gemm(&rhs_trans, &lhs_trans, &n, &m, &k, &one, const_cast<T*>(rhs), &rhs_leading, const_cast<T*>(lhs),
                    &lhs_leading, &beta, out, &out_leading);
}

// One step of the loops, summed over all of `sums`.
template <typename T>
void multiply_all(const Product& product, const std::vector<Loop>& sums, const T* lhs, const T* rhs, T* out) {
  int64_t count = steps(sums);
  for (int64_t i = 0; i < count; ++i) {
    Loop at = offset(sums, i);
    multiply(product, lhs + at.lhs, rhs + at.rhs, out, i > 0);
  }
}

int64_t pieces_of(int64_t size, int64_t wanted, int64_t narrowest) {
  return std::max<int64_t>(1, std::min(wanted, size / narrowest));
}

// A dot with a small result and a long sum: pieces of the sum side by side, added in their order.
template <typename T>
void long_sum(ffi::ThreadPool& pool, const Product& whole, int64_t pieces, const T* lhs, const T* rhs, T* out) {
  int64_t elements = whole.m * whole.n;
  std::vector<T> parts(pieces * elements);
  parallel(pool, pieces, [&](int64_t piece) {
    int64_t first = whole.k * piece / pieces, last = whole.k * (piece + 1) / pieces;
    Product part = whole;
    part.k = last - first;
    part.out_m = whole.n;
    part.out_n = 1;
    multiply(part, lhs + first * whole.lhs_k, rhs + first * whole.rhs_k, parts.data() + piece * elements, false);
  });
  for (int64_t m = 0; m < whole.m; ++m) {
    for (int64_t n = 0; n < whole.n; ++n) {
      T sum(0);
      for (int64_t piece = 0; piece < pieces; ++piece) sum += parts[piece * elements + m * whole.n + n];
      out[m * whole.out_m + n * whole.out_n] = sum;
    }
  }
}

template <typename T>
void run(ffi::ThreadPool& pool, const Plan& plan, const T* lhs, const T* rhs, T* out) {
  const Product& p = plan.product;
  int64_t count = steps(plan.loops), work = count * steps(plan.sums) * p.m * p.n * p.k;
  int64_t wanted = work < kAlone ? 1 : kTasksPerThread * pool.num_threads();
  OneThread one_thread;
  if (count == 1 && plan.sums.empty() && p.m * p.n <= kSmallResult && p.k >= 2 * kShortest &&
      std::max(p.m, p.n) < 2 * kNarrowest) {
    return long_sum(pool, p, std::min(kMostSums, p.k / kShortest), lhs, rhs, out);
  }
  // Few steps: the rows or columns of each are cut, whichever are more.
  int64_t each = count < wanted ? (wanted + count - 1) / count : 1;
  bool by_rows = p.m >= p.n;
  int64_t size = by_rows ? p.m : p.n, pieces = pieces_of(size, each, kNarrowest);
  int64_t width = ((size + pieces - 1) / pieces + kRounding - 1) / kRounding * kRounding;
  if (pieces > 1) pieces = (size + width - 1) / width;
  int64_t tasks = pieces > 1 ? count * pieces : std::min(count, wanted);
  parallel(pool, tasks, [&](int64_t task) {
    if (pieces == 1) {
      for (int64_t step = count * task / tasks; step < count * (task + 1) / tasks; ++step) {
        Loop at = offset(plan.loops, step);
        multiply_all(p, plan.sums, lhs + at.lhs, rhs + at.rhs, out + at.out);
      }
      return;
    }
    Loop at = offset(plan.loops, task / pieces);
    int64_t first = task % pieces * width;
    Product part = p;
    (by_rows ? part.m : part.n) = std::min(width, size - first);
    int64_t lhs_first = by_rows ? first * p.lhs_m : 0, rhs_first = by_rows ? 0 : first * p.rhs_n;
    multiply_all(part, plan.sums, lhs + at.lhs + lhs_first, rhs + at.rhs + rhs_first,
                 out + at.out + first * (by_rows ? p.out_m : p.out_n));
  });
}

template <typename T>
ffi::Error run(ffi::ThreadPool& pool, const Plan& plan, ffi::AnyBuffer& lhs, ffi::AnyBuffer& rhs, ffi::AnyBuffer& out) {
  run(pool, plan, reinterpret_cast<const T*>(lhs.untyped_data()), reinterpret_cast<const T*>(rhs.untyped_data()),
      reinterpret_cast<T*>(out.untyped_data()));
  return ffi::Error::Success();
}

ffi::Error dot(ffi::ThreadPool pool, ffi::AnyBuffer lhs, ffi::AnyBuffer rhs, ffi::Result<ffi::AnyBuffer> out,
               ffi::Span<const int64_t> plan) {
  Plan read = Plan::read(plan);
  switch (lhs.element_type()) {
    case ffi::DataType::F32:
      return run<float>(pool, read, lhs, rhs, *out);
    case ffi::DataType::F64:
      return run<double>(pool, read, lhs, rhs, *out);
    case ffi::DataType::C64:
      return run<std::complex<float>>(pool, read, lhs, rhs, *out);
    case ffi::DataType::C128:
      return run<std::complex<double>>(pool, read, lhs, rhs, *out);
    default:
      return ffi::Error::InvalidArgument("jbdot_native: BLAS has no kernel for this dtype");
  }
}

template <typename T>
void link_routines(void* const* routines) {
  Routines<T>::gemm = reinterpret_cast<Gemm<T>*>(routines[0]);
  Routines<T>::gemv = reinterpret_cast<Gemv<T>*>(routines[1]);
}

}  // namespace

// Takes the addresses of sgemm, sgemv, dgemm, dgemv, cgemm, cgemv, zgemm, zgemv, and of what gets and sets the number of
// OpenBLAS' threads.
EXPORTED void jbdot_native_link(void* const* routines) {
  link_routines<float>(routines);
  link_routines<double>(routines + 2);
  link_routines<std::complex<float>>(routines + 4);
  link_routines<std::complex<double>>(routines + 6);
  Threads::get = reinterpret_cast<int (*)()>(routines[8]);
  Threads::set = reinterpret_cast<void (*)(int)>(routines[9]);
}

// The version of XLA's FFI that this was built for: an older JAX refuses it, and with it to start its CPU backend.
EXPORTED void jbdot_native_api(int* major_minor) {
  major_minor[0] = XLA_FFI_API_MAJOR;
  major_minor[1] = XLA_FFI_API_MINOR;
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(jbdot_native_dot_handler, dot,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attr<ffi::Span<const int64_t>>("plan"));

EXPORTED XLA_FFI_Error* jbdot_native_dot(XLA_FFI_CallFrame* frame) { return jbdot_native_dot_handler(frame); }
