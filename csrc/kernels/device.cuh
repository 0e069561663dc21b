// What every kernel needs of the device: CUDA itself or its emulation, launches, warp helpers.
#pragma once

#ifdef AUTOEMB_EMULATED
#include "../emulation/cuda.h"
#else
#include <cuda_runtime.h>
#endif

#include <stdexcept>
#include <string>

#include "params.h"

namespace autoemb {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

__device__ inline int lane() { return static_cast<int>(threadIdx.x) % kWarp; }
__device__ inline int warp() { return static_cast<int>(threadIdx.x) / kWarp; }

// Sum over the lanes that differ in the bits of `lanes`, in a fixed order; all of them get it.
__device__ inline float sum_lanes(float value, int lanes) {
  for (int bit = 1; bit < kWarp; bit *= 2) {
    if (lanes & bit) value += __shfl_xor_sync(kAllLanes, value, bit);
  }
  return value;
}

#ifdef AUTOEMB_EMULATED

template <class T>
T* dynamic_shared() {
  return static_cast<T*>(emulation::dynamic_shared());
}

template <class Params>
void launch(const char* name, void (*kernel)(Params), dim3 grid, int threads, size_t shared, Stream,
            const Params& params) {
  emulation::launch(name, grid, threads, shared, [&] { kernel(params); });
}

#else

template <class T>
__device__ T* dynamic_shared() {
  extern __shared__ float4 autoemb_shared[];
  return reinterpret_cast<T*>(autoemb_shared);
}

inline void check(cudaError_t error, const char* name) {
  if (error != cudaSuccess) {
    throw std::runtime_error(std::string("autoemb kernel ") + name + ": " +
                             cudaGetErrorString(error));
  }
}

// Nothing here allocates, waits or depends on data: launches may be captured in a CUDA graph.
template <class Params>
void launch(const char* name, void (*kernel)(Params), dim3 grid, int threads, size_t shared,
            Stream stream, const Params& params) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  if (grid.x > 0x7fffffffu || grid.y > 65535u || grid.z > 65535u) {
    throw std::runtime_error(std::string("autoemb kernel ") + name + ": the grid is too large");
  }
  if (shared > 48 * 1024) {  // beyond this, shared memory must be asked for
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shared)),
          name);
  }
  void* arguments[] = {const_cast<Params*>(&params)};
  check(cudaLaunchKernel(kernel, grid, dim3(static_cast<unsigned>(threads)), arguments, shared,
                         static_cast<cudaStream_t>(stream)),
        name);
  check(cudaGetLastError(), name);
}

#endif

}  // namespace autoemb
