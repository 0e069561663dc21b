// Matrix products of one warp on operands in shared memory, in three kinds of arithmetic.
#pragma once

#include "device.cuh"

namespace autoemb {

// Element (i, k) of an operand, k the index that is summed over.
struct Rows {  // k runs along the memory
  const float* data;
  int stride;
  __device__ float at(int i, int k) const { return data[i * stride + k]; }
  __device__ float4 four(int i, int k) const {
    return *reinterpret_cast<const float4*>(data + i * stride + k);
  }
};
struct Columns {  // i runs along the memory
  const float* data;
  int stride;
  __device__ float at(int i, int k) const { return data[k * stride + i]; }
  __device__ float4 four(int i, int k) const {
    return {at(i, k), at(i, k + 1), at(i, k + 2), at(i, k + 3)};
  }
};

// A warp holds 16 rows of the product and 8 columns per fragment, as mma.sync lays them out: a lane
// has rows lane/4 and lane/4 + 8, and of every 8 columns those at 2 (lane%4) and the next.
// `values[r][c]` is row `row() + 8 r`, column `column(c)`.
template <int kFragments>
struct Accumulator {
  float values[2][2 * kFragments] = {};
  static constexpr int kColumns = 2 * kFragments;
  __device__ static int row() { return lane() / 4; }
  __device__ static int column(int c) { return 2 * (lane() % 4) + (c & 1) + 8 * (c >> 1); }
};

#ifdef AUTOEMB_EMULATED

inline unsigned to_tf32(float value) { return (__float_as_uint(value) + 0x1000u) & 0xffffe000u; }
inline unsigned bf16_bits(float value) {
  const unsigned bits = __float_as_uint(value);
  return (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
}
inline unsigned to_bf16x2(float low, float high) { return bf16_bits(high) << 16 | bf16_bits(low); }

// mma.sync by exchange within the warp: each lane sums its four results.
template <Mode kMode>
void mma(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  unsigned mine[6];
  std::memcpy(mine, a, sizeof(a));
  std::memcpy(mine + 4, b, sizeof(b));
  emulation::show(mine, sizeof(mine));
  const auto value = [](int source, int word, int half) {
    unsigned bits = static_cast<const unsigned*>(emulation::shown_by(source))[word];
    if (kMode == Mode::kBf16) bits = half ? bits & 0xffff0000u : bits << 16;
    return __uint_as_float(bits);
  };
  const int halves = kMode == Mode::kBf16 ? 2 : 1;
  for (int i = 0; i < 4; ++i) {
    const int row = lane() / 4 + 8 * (i / 2), column = 2 * (lane() % 4) + i % 2;
    for (int k = 0; k < 8; ++k) {
      for (int half = 0; half < halves; ++half) {
        d[i] += value(row % 8 * 4 + k % 4, row / 8 + 2 * (k / 4), half) *
                value(column * 4 + k % 4, 4 + k / 4, half);
      }
    }
  }
}

#else

__device__ inline unsigned to_tf32(float value) {
  unsigned bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
  return bits;
}
__device__ inline unsigned to_bf16x2(float low, float high) {
  unsigned bits;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
  return bits;
}

template <Mode kMode>
__device__ inline void mma(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  if constexpr (kMode == Mode::kTf32) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
}

#endif

// The number as products of this mode see it.
__device__ inline float rounded(float value, Mode mode) {
  if (mode == Mode::kIeee) return value;
  const unsigned bits = mode == Mode::kTf32 ? to_tf32(value) : to_bf16x2(0.0f, value);
  return __uint_as_float(bits);
}

// One register of an mma operand: a tf32 number at k + lane%4, or two bf16 ones from k + 2 (lane%4)
// on. Rounding here and not in shared memory keeps one copy of the operands for every mode.
template <Mode kMode, class Operand>
__device__ inline unsigned fragment(const Operand& operand, int i, int k) {
  if constexpr (kMode == Mode::kTf32) {
    return to_tf32(operand.at(i, k + lane() % 4));
  } else {
    const int first = k + 2 * (lane() % 4);
    return to_bf16x2(operand.at(i, first), operand.at(i, first + 1));
  }
}

// sum += a b over `depth`; a has 16 rows i, b has 8 kFragments columns i.
template <Mode kMode, int kFragments, class A, class B>
__device__ inline void multiply(const A& a, const B& b, int depth, Accumulator<kFragments>& sum) {
  const int row = sum.row();
  if constexpr (kMode == Mode::kIeee) {
    for (int k = 0; k < depth; k += 4) {
      const float4 upper = a.four(row, k), lower = a.four(row + 8, k);
#pragma unroll
      for (int c = 0; c < sum.kColumns; ++c) {
        const float4 right = b.four(sum.column(c), k);
        float& first = sum.values[0][c];
        float& second = sum.values[1][c];
        first += upper.x * right.x;
        second += lower.x * right.x;
        first += upper.y * right.y;
        second += lower.y * right.y;
        first += upper.z * right.z;
        second += lower.z * right.z;
        first += upper.w * right.w;
        second += lower.w * right.w;
      }
    }
  } else {
    constexpr int kStep = kMode == Mode::kTf32 ? 8 : 16;
    for (int k = 0; k < depth; k += kStep) {
      const unsigned left[4] = {fragment<kMode>(a, row, k), fragment<kMode>(a, row + 8, k),
                                fragment<kMode>(a, row, k + kStep / 2),
                                fragment<kMode>(a, row + 8, k + kStep / 2)};
#pragma unroll
      for (int f = 0; f < kFragments; ++f) {
        const int column = 8 * f + lane() / 4;
        const unsigned right[2] = {fragment<kMode>(b, column, k),
                                   fragment<kMode>(b, column, k + kStep / 2)};
        float d[4] = {sum.values[0][2 * f], sum.values[0][2 * f + 1], sum.values[1][2 * f],
                      sum.values[1][2 * f + 1]};
        mma<kMode>(d, left, right);
        sum.values[0][2 * f] = d[0];
        sum.values[0][2 * f + 1] = d[1];
        sum.values[1][2 * f] = d[2];
        sum.values[1][2 * f + 1] = d[3];
      }
    }
  }
}

// The same; `exact` takes float32 whatever the mode.
template <Mode kMode, int kFragments, class A, class B>
__device__ inline void multiply(const A& a, const B& b, int depth, bool exact,
                                Accumulator<kFragments>& sum) {
  if (exact) {
    multiply<Mode::kIeee>(a, b, depth, sum);
  } else if constexpr (kMode != Mode::kIeee) {
    multiply<kMode>(a, b, depth, sum);
  }
}

}  // namespace autoemb
