// Small matrix products: C [m, n] = A [m, k] B [k, n] from registers, a panel of B at a time.
#pragma once

#include "vector.h"

namespace autoemb::cpu {
namespace {

// Accumulators fill the register file (32 registers with AVX-512, else 16): rows x 2 vectors, and
// room for two vectors of B and one of A.
constexpr int kRows = kVector == 16 ? 12 : 6;
constexpr int64_t kPanel = 2 * kVector;

enum class Start { kZero, kColumns, kResult };

struct Product {
  int64_t m, n, k;  // n is a multiple of kVector
  const float* a;
  int64_t a_row, a_column;  // strides
  const float* b;           // panel p starts at b + p * b_panel
  int64_t b_row;            // stride; 0: the panels are packed, their rows without gaps
  int64_t b_panel;
  float* c;
  int64_t c_row;
  Start start;           // C begins at zero, at `columns` in every row, or at what it is
  const float* columns;  // [n]
};

template <int R, int V>
inline void micro(const Product& p, const float* a, const float* b, float* c,
                  const float* columns) {
  const int64_t b_row = p.b_row == 0 ? V * kVector : p.b_row;
  Vector sums[R][V];
#pragma GCC unroll 12
  for (int i = 0; i < R; ++i) {
    for (int v = 0; v < V; ++v) {
      sums[i][v] = p.start == Start::kZero      ? Vector{}
                   : p.start == Start::kColumns ? load(columns + v * kVector)
                                                : load(c + i * p.c_row + v * kVector);
    }
  }
  // A pointer for every third row of A: one each would not fit into the registers, and the rows
  // after it are once and twice the stride away, which an address can say.
  const float* rows[(R + 2) / 3];
#pragma GCC unroll 12
  for (int i = 0; i < R; i += 3) rows[i / 3] = a + i * p.a_row;
  for (int64_t k = 0; k < p.k; ++k) {
    Vector row[V];
    for (int v = 0; v < V; ++v) row[v] = load(b + k * b_row + v * kVector);
    for (int i = 0; i < R; ++i) {
      const Vector factor = all(rows[i / 3][i % 3 * p.a_row]);
      for (int v = 0; v < V; ++v) sums[i][v] += factor * row[v];
    }
    for (int i = 0; i < R; i += 3) rows[i / 3] += p.a_column;
  }
#pragma GCC unroll 12
  for (int i = 0; i < R; ++i) {
    for (int v = 0; v < V; ++v) store(c + i * p.c_row + v * kVector, sums[i][v]);
  }
}

// Calls micro for `rows` <= R rows.
template <int R, int V>
inline void block(const Product& p, int64_t rows, const float* a, const float* b, float* c,
                  const float* columns) {
  if constexpr (R > 1) {
    if (rows < R) return block<R - 1, V>(p, rows, a, b, c, columns);
  }
  micro<R, V>(p, a, b, c, columns);
}

inline void multiply(const Product& p) {
  for (int64_t j = 0; j < p.n; j += kPanel) {
    const float* b = p.b + j / kPanel * p.b_panel;
    const float* columns = p.columns == nullptr ? nullptr : p.columns + j;
    for (int64_t i = 0; i < p.m; i += kRows) {
      const int64_t rows = p.m - i < kRows ? p.m - i : kRows;
      const float* a = p.a + i * p.a_row;
      float* c = p.c + i * p.c_row + j;
      if (p.n - j >= kPanel) {
        block<kRows, 2>(p, rows, a, b, c, columns);
      } else {
        block<kRows, 1>(p, rows, a, b, c, columns);
      }
    }
  }
}

}  // namespace
}  // namespace autoemb::cpu
