// Loops over threads. OpenMP, as PyTorch: its library is loaded by then and serves both, so the two
// share one pool of threads.
#pragma once

#include <cstdint>

#ifdef _OPENMP
#include <omp.h>
#endif

namespace autoemb::cpu {

// Calls body(index, thread) for every index below `count`; the results must not depend on which
// thread takes which. The body must not throw.
template <class Body>
void parallel_for(int threads, int64_t count, const Body& body) {
#ifdef _OPENMP
  if (threads > 1 && count > 1) {
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
    for (int64_t index = 0; index < count; ++index) body(index, omp_get_thread_num());
    return;
  }
#endif
  (void)threads;
  for (int64_t index = 0; index < count; ++index) body(index, 0);
}

}  // namespace autoemb::cpu
