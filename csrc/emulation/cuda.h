// The part of CUDA that the kernels use, on a CPU: for tests where there is no GPU.
//
// Blocks run one after the other; the threads of a block are fibers that run until they wait for
// others (__syncthreads, __syncwarp, shuffles). Which one runs next is drawn from a seed, so a
// result that depends on the order, as it does where a barrier is missing, changes with the seed.
// Shared memory is allocated to the byte and filled with NaN: AddressSanitizer sees overruns, tests
// see what was never written. It cannot see races between blocks, misaligned accesses or fast-math.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

#define __global__
#define __device__
#define __host__
#define __grid_constant__
#define __forceinline__ inline
#define __launch_bounds__(...)
// One block runs at a time, so one copy is enough. Not cleared between blocks, as on the device.
#define __shared__ static

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }

inline dim3 threadIdx, blockIdx, blockDim, gridDim;  // of the fiber that runs

namespace emulation {

// Runs all blocks; throws std::runtime_error where threads wait for each other in vain.
void launch(const char* name, dim3 grid, int threads, size_t shared,
            const std::function<void()>& kernel);
void set_seed(uint64_t seed);
void* dynamic_shared();
void wait_for_block();
void wait_for_warp();

constexpr size_t kMessage = 32;  // bytes that a lane shows the others: the operands of one mma

// Shows `message` to the lanes of the warp; all of them must call it. What `from` points to stays
// until this lane's call after the next.
void show(const void* message, size_t size);
const void* shown_by(int lane);

template <class T>
T exchange(T value, int source) {
  static_assert(sizeof(T) <= kMessage);
  show(&value, sizeof(T));
  T result;
  std::memcpy(&result, shown_by(source), sizeof(T));
  return result;
}

}  // namespace emulation

inline void __syncthreads() { emulation::wait_for_block(); }
inline void __syncwarp() { emulation::wait_for_warp(); }
inline void __threadfence() {}
inline void __threadfence_system() {}

template <class T>
T __shfl_sync(unsigned, T value, int source) {
  return emulation::exchange(value, source % 32);
}
template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  return emulation::exchange(value, static_cast<int>(threadIdx.x % 32) ^ mask);
}
template <class T>
T __shfl_up_sync(unsigned, T value, int distance) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  return emulation::exchange(value, lane < distance ? lane : lane - distance);
}

inline unsigned long long atomicCAS(unsigned long long* address, unsigned long long compare,
                                    unsigned long long value) {
  const unsigned long long old = *address;
  if (old == compare) *address = value;
  return old;
}

inline unsigned __float_as_uint(float value) {
  unsigned bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}
inline float __uint_as_float(unsigned bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __dadd_rn(double a, double b) { return a + b; }

using std::max;
using std::min;
