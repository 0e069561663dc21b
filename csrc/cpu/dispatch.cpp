// Which instruction set to use is decided by the CPU at hand, never by the one that compiled.
#include <cstring>

#include "kernels.h"

namespace autoemb::cpu {
namespace {

#ifdef AUTOEMB_X86
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

}  // namespace

const Kernels* kernels_named(const char* name) {
#ifdef AUTOEMB_X86
  if (std::strcmp(name, kAvx512.name) == 0) return has_avx512() ? &kAvx512 : nullptr;
  if (std::strcmp(name, kAvx2.name) == 0) return has_avx2() ? &kAvx2 : nullptr;
#endif
  return std::strcmp(name, kBaseline.name) == 0 ? &kBaseline : nullptr;
}

}  // namespace autoemb::cpu
