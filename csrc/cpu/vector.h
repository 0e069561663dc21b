// Vectors of as many floats as the instruction set at hand takes, and functions of them.
// Everything is static: code compiled for one instruction set must never be merged with another's,
// which is also why no template of the standard library is used here or in tiles.h.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX512F__)
#define AUTOEMB_VECTOR 16
#elif defined(__AVX2__)
#define AUTOEMB_VECTOR 8
#else
#define AUTOEMB_VECTOR 4
#endif

namespace autoemb::cpu {
namespace {

// For functions that do nothing but prefetch: GCC takes them for pure and drops the calls.
#define AUTOEMB_INLINE inline __attribute__((always_inline))

constexpr int64_t kVector = AUTOEMB_VECTOR;
typedef float Vector __attribute__((vector_size(4 * AUTOEMB_VECTOR)));
typedef int32_t Integers __attribute__((vector_size(4 * AUTOEMB_VECTOR)));
typedef float Unaligned __attribute__((vector_size(4 * AUTOEMB_VECTOR), aligned(4)));

inline Vector load(const float* from) { return *reinterpret_cast<const Unaligned*>(from); }
inline void store(float* to, Vector value) { *reinterpret_cast<Unaligned*>(to) = value; }
// Written out, it compiles to one broadcast from memory; `Vector{} + value` adds a zero to each
// lane.
inline Vector all(float x) {
#if AUTOEMB_VECTOR == 16
  return Vector{x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x};
#elif AUTOEMB_VECTOR == 8
  return Vector{x, x, x, x, x, x, x, x};
#else
  return Vector{x, x, x, x};
#endif
}

// The sum of the two halves. The compiler makes registers of these copies.
template <class Half, class Whole>
inline Half halved(Whole value) {
  Half low, high;
  memcpy(&low, &value, sizeof(Half));
  memcpy(&high, reinterpret_cast<const char*>(&value) + sizeof(Half), sizeof(Half));
  return low + high;
}

inline float sum_lanes(Vector value) {
  typedef float Four __attribute__((vector_size(16)));
#if AUTOEMB_VECTOR == 16
  typedef float Eight __attribute__((vector_size(32)));
  const Four four = halved<Four>(halved<Eight>(value));
#elif AUTOEMB_VECTOR == 8
  const Four four = halved<Four>(value);
#else
  const Four four = value;
#endif
  return (four[0] + four[2]) + (four[1] + four[3]);
}

// As many doubles as fill a vector.
typedef double Doubles __attribute__((vector_size(4 * AUTOEMB_VECTOR)));

inline Doubles widened(const float* from) {
  typedef float Some __attribute__((vector_size(2 * AUTOEMB_VECTOR)));
  Some some;
  memcpy(&some, from, sizeof(some));
  return __builtin_convertvector(some, Doubles);
}

// tanh(x) = m / (m + 2) with m = exp(2 |x|) - 1 = 2^k (exp(r) - 1) + (2^k - 1), 2 |x| = k ln 2 + r,
// |r| <= ln(2) / 2. Within 2.5 units in the last place of the exact value: 2.42 over all 2^32
// floats, of which tests/cpu/test_tanh.py tries some; NaN stays NaN.
inline Vector tanh_of(Vector x) {
  const Integers sign = reinterpret_cast<Integers>(x) & INT32_MIN;
  Vector size = reinterpret_cast<Vector>(reinterpret_cast<Integers>(x) & INT32_MAX);
  // tanh(9.02) rounds to 1. The comparison is false for NaN, which goes on.
  size = size > 9.02f ? all(9.02f) : size;
  const Vector twice = size + size;
  // Adding 1.5 * 2^23 rounds to an integer, which is then in the low bits.
  const Vector shifted = twice * 1.44269504f + 12582912.0f;
  const Vector k = shifted - 12582912.0f;
  // ln 2 in two parts: the first has 9 trailing zeros, so k times it is exact.
  const Vector r = (twice - k * 0.693359375f) + k * 2.12194440e-4f;
  Vector series = all(1.0f / 5040);
  series = series * r + 1.0f / 720;
  series = series * r + 1.0f / 120;
  series = series * r + 1.0f / 24;
  series = series * r + 1.0f / 6;
  series = series * r + 0.5f;
  const Vector less_one = series * (r * r) + r;
  const Integers exponent = (reinterpret_cast<Integers>(shifted) - 0x4b400000 + 127) << 23;
  const Vector power = reinterpret_cast<Vector>(exponent);
  const Vector m = power * less_one + (power - 1.0f);
  const Vector value = m / (m + 2.0f);
  return reinterpret_cast<Vector>(reinterpret_cast<Integers>(value) | sign);
}

}  // namespace
}  // namespace autoemb::cpu
