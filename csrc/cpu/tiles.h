// The work on one tile of distinct ids: the AutoEmb paper's Eqs. 1, 2 and 7, and their derivatives.
#pragma once

#include "kernels.h"
#include "product.h"

namespace autoemb::cpu {
namespace {

int64_t padded(int64_t width) { return (width + kVector - 1) / kVector * kVector; }

// Packed B of a product: panels of kPanel columns, the last one narrower if need be.
int64_t panel_columns(int64_t padded_columns, int64_t panel) {
  return padded_columns - panel < kPanel ? padded_columns - panel : kPanel;
}

int64_t packed_by_width(const Field& f) { return f.total * f.padded_width; }

int64_t packed_by_total(const Field& f) {
  int64_t columns = 0;
  for (int64_t n = 0; n < f.sizes; ++n) columns += padded(f.dims[n]);
  return columns * f.width;
}

void pack_by_width(const Field& f) {
  float* to = f.by_width;
  for (int64_t n = 0, column = 0; n < f.sizes; column += f.dims[n++]) {
    for (int64_t j = 0; j < f.padded_width; j += kPanel) {
      const int64_t columns = panel_columns(f.padded_width, j);
      // Row by row of the projection: across, each float would be a line of memory of its own.
      for (int64_t i = 0; i < columns; ++i) {
        const float* row = f.projection + (j + i) * f.total + column;
        for (int64_t k = 0; k < f.dims[n]; ++k) {
          to[k * columns + i] = j + i < f.width ? row[k] : 0.0f;
        }
      }
      to += f.dims[n] * columns;
    }
  }
}

void pack_by_total(const Field& f) {
  float* to = f.by_total;
  for (int64_t n = 0, column = 0; n < f.sizes; column += f.dims[n++]) {
    for (int64_t j = 0; j < padded(f.dims[n]); j += kPanel) {
      const int64_t columns = panel_columns(padded(f.dims[n]), j);
      for (int64_t k = 0; k < f.width; ++k) {
        for (int64_t i = 0; i < columns; ++i) {
          *to++ = j + i < f.dims[n] ? f.projection[k * f.total + column + j + i] : 0.0f;
        }
      }
    }
  }
}

// Asks for the rows of a tile's ids at once: one by one, each would wait for memory.
AUTOEMB_INLINE void prefetch(const Field& f, const Tile& tile) {
  constexpr int64_t kLine = 64 / sizeof(float);
  for (int64_t i = 0; i < tile.rows; ++i) {
    const int64_t row = f.rows[tile.begin + i];
    for (int64_t n = 0; n < f.sizes; ++n) {
      const float* from = f.tables[n].base + row * f.tables[n].stride;
      for (int64_t k = 0; k < f.dims[n]; k += kLine) __builtin_prefetch(from + k);
    }
  }
}

void gather(const Field& f, const Tile& tile) {
  prefetch(f, tile);
  for (int64_t i = 0; i < tile.rows; ++i) {
    const int64_t row = f.rows[tile.begin + i];
    float* to = tile.embeddings + i * f.total;
    for (int64_t n = 0; n < f.sizes; to += f.dims[n++]) {
      const Table& table = f.tables[n];
      memcpy(to, table.base + row * table.stride, sizeof(float) * static_cast<size_t>(f.dims[n]));
    }
  }
}

// V vectors of columns from `column` on; the sums stay in registers.
template <int V>
inline void sum_columns(const Field& f, const Tile& tile, int64_t column, const float* share,
                        double* sums) {
  Doubles sum[2 * V] = {};
  for (int64_t i = 0; i < tile.rows; ++i) {
    const float* from = tile.embeddings + i * f.total + column;
    const double factor = share[i];
    for (int v = 0; v < 2 * V; ++v) sum[v] += factor * widened(from + v * kVector / 2);
  }
  memcpy(sums + column, sum, sizeof(sum));
}

void sum_rows(const Field& f, const Tile& tile, double* sums) {
  constexpr int kAtOnce = kVector == 4 ? 2 : 4;  // 8 accumulators of doubles, 4 with SSE2
  const float* share = f.share + tile.begin;
  for (int64_t n = 0, k = 0, end = 0; n < f.sizes; ++n) {
    end += f.dims[n];
    for (; k + kAtOnce * kVector <= end; k += kAtOnce * kVector) {
      sum_columns<kAtOnce>(f, tile, k, share, sums);
    }
    for (; k + kVector <= end; k += kVector) sum_columns<1>(f, tile, k, share, sums);
    for (; k < end; ++k) {
      double sum = 0;
      for (int64_t i = 0; i < tile.rows; ++i) {
        sum += static_cast<double>(share[i]) * tile.embeddings[i * f.total + k];
      }
      sums[k] = sum;
    }
  }
}

void centre(const Field& f, const Tile& tile) {
  for (int64_t i = 0; i < tile.rows; ++i) {
    float* row = tile.embeddings + i * f.total;
    int64_t k = 0;
    for (; k + kVector <= f.total; k += kVector) {
      store(row + k, load(row + k) - load(f.centre + k));
    }
    for (; k < f.total; ++k) row[k] -= f.centre[k];
  }
}

void project_exactly(const Field& f, const double* row, double* result) {
  const float* b = f.by_width;
  for (int64_t n = 0; n < f.sizes; row += f.dims[n++]) {
    for (int64_t j = 0; j < f.padded_width; j += kPanel) {
      const int64_t columns = panel_columns(f.padded_width, j);
      double sums[kPanel] = {};
      for (int64_t k = 0; k < f.dims[n]; ++k, b += columns) {
        for (int64_t i = 0; i < columns; ++i) sums[i] += row[k] * b[i];
      }
      memcpy(result + n * f.padded_width + j, sums, sizeof(double) * static_cast<size_t>(columns));
    }
  }
}

void project(const Field& f, const Tile& tile) {
  const float* b = f.by_width;
  for (int64_t n = 0, column = 0; n < f.sizes; column += f.dims[n++]) {
    multiply({tile.rows, f.padded_width, f.dims[n], tile.embeddings + column, f.total, 1, b, 0,
              f.dims[n] * kPanel, tile.normalised + n * kTileRows * f.padded_width, f.padded_width,
              Start::kColumns, f.shift + n * f.padded_width});
    b += f.dims[n] * f.padded_width;
  }
}

void sum_squares(const Field& f, const Tile& tile, float* means, float* squares) {
  const float* share = f.share + tile.begin;
  float whole = 0;
  for (int64_t i = 0; i < tile.rows; ++i) whole += share[i];
  const float part = means == nullptr || whole == 0 ? 0.0f : 1.0f / whole;
  for (int64_t n = 0; n < f.sizes; ++n) {
    const float* values = tile.normalised + n * kTileRows * f.padded_width;
    for (int64_t j = 0; j < f.padded_width; j += kVector) {
      Vector mean{}, sum{};
      for (int64_t i = 0; part != 0 && i < tile.rows; ++i) {
        mean += share[i] * part * load(values + i * f.padded_width + j);
      }
      for (int64_t i = 0; i < tile.rows; ++i) {
        const Vector value = load(values + i * f.padded_width + j) - mean;
        sum += share[i] * value * value;
      }
      if (means != nullptr) store(means + n * f.padded_width + j, mean);
      store(squares + n * f.padded_width + j, sum);
    }
  }
}

// Scales a row of one size in place and gives its tanh.
void activate(const Field& f, const Tile& tile, int64_t n, int64_t i, float* activation) {
  float* values = tile.normalised + (n * kTileRows + i) * f.padded_width;
  const float* scale = f.scale + n * f.padded_width;
  for (int64_t j = 0; j < f.padded_width; j += kVector) {
    const Vector y = load(values + j) * load(scale + j);
    store(values + j, y);
    store(activation + j, tanh_of(y));
  }
}

// Asks for what belongs to an event some places further on in `order`, its weights and a row of D
// floats: the tanh of the ids in between hides the wait. `kWrite` 1: to write that row.
template <int kWrite>
AUTOEMB_INLINE void prefetch_ahead(const Field& f, int64_t at, const float* base, int64_t stride) {
  constexpr int64_t kAhead = 8, kLine = 64 / sizeof(float);
  if (at + kAhead >= f.starts[f.distinct]) return;
  const int64_t event = f.order[at + kAhead];
  __builtin_prefetch(f.weights + event * f.weights_event_stride);
  for (int64_t j = 0; j < f.width; j += kLine) {
    __builtin_prefetch(base + event * stride + j, kWrite);
  }
}

void mix(const Field& f, const Tile& tile) {
  const int64_t whole = f.width / kVector * kVector;  // columns that whole vectors hold
  for (int64_t i = 0; i < tile.rows; ++i) {
    for (int64_t n = 0; n < f.sizes; ++n) activate(f, tile, n, i, tile.row + n * f.padded_width);
    const int64_t end = f.starts[tile.begin + i + 1];
    for (int64_t at = f.starts[tile.begin + i]; at < end; ++at) {
      const int64_t event = f.order[at];
      const float* weights = f.weights + event * f.weights_event_stride;
      float* output = f.output + event * f.output_stride;
      prefetch_ahead<1>(f, at, f.output, f.output_stride);
      for (int64_t j = 0; j < f.padded_width; j += kVector) {
        Vector sum{};
        for (int64_t n = 0; n < f.sizes; ++n) {
          const float weight = weights[n * f.weights_size_stride] * f.factor;
          sum += weight * load(tile.row + n * f.padded_width + j);
        }
        if (j < whole) {
          store(output + j, sum);
        } else {
          float last[kVector];
          store(last, sum);
          for (int64_t lane = 0; j + lane < f.width; ++lane) output[j + lane] = last[lane];
        }
      }
    }
  }
}

// The first floats of a vector, then zeros.
inline Vector load_some(const float* from, int64_t count) {
  float some[kVector] = {};
  for (int64_t lane = 0; lane < count; ++lane) some[lane] = from[lane];
  return load(some);
}

// For one id and size, columns j to j + V vectors: weight * gradient summed over its events, and
// the gradient's products with the activation, for the gradients of their weights. Both rows stay
// in registers. `kTail`: columns of the last vector lie beyond D.
template <int V, bool kTail>
inline void sum_events(const Field& f, int64_t begin, int64_t end, int64_t n, int64_t j,
                       const float* activation, float* sum) {
  Vector t[V], sums[V];
  const Vector zero{};
#pragma GCC unroll 8
  for (int v = 0; v < V; ++v) {
    t[v] = load(activation + j + v * kVector);
    sums[v] = zero;
  }
  for (int64_t at = begin; at < end; ++at) {
    const int64_t event = f.order[at];
    const float* grad = f.grad + event * f.grad_stride + j;
    const float weight =
        f.weights[event * f.weights_event_stride + n * f.weights_size_stride] * f.factor;
    Vector inner[2] = {};  // two chains of sums: one would wait for itself
    for (int v = 0; v < V; ++v) {
      const Vector g = kTail ? load_some(grad, f.width - j) : load(grad + v * kVector);
      inner[v % 2] += g * t[v];
      sums[v] += weight * g;
    }
    float& result = f.weights_grad[event * f.weights_grad_stride + n];
    result = (j == 0 ? 0.0f : result) + sum_lanes(inner[0] + inner[1]) * f.factor;
  }
  for (int v = 0; v < V; ++v) store(sum + j + v * kVector, sums[v]);
}

void differentiate(const Field& f, const Tile& tile, float* sums) {
  constexpr int kAtOnce = kVector == 16 ? 8 : 4;  // two such rows fit into the registers
  const int64_t all_columns = f.sizes * f.padded_width;
  float* activation = tile.row;
  float* summed = tile.row + all_columns;  // of weight * gradient over the events of the id
  if (sums != nullptr) memset(sums, 0, sizeof(float) * static_cast<size_t>(2 * all_columns));
  for (int64_t i = 0; i < tile.rows; ++i) {
    const int64_t begin = f.starts[tile.begin + i], end = f.starts[tile.begin + i + 1];
    for (int64_t at = begin; at < end; ++at) prefetch_ahead<0>(f, at, f.grad, f.grad_stride);
    for (int64_t n = 0; n < f.sizes; ++n) {
      float* t = activation + n * f.padded_width;
      float* sum = summed + n * f.padded_width;
      activate(f, tile, n, i, t);
      int64_t j = 0;
      for (; j + kAtOnce * kVector <= f.width; j += kAtOnce * kVector) {
        sum_events<kAtOnce, false>(f, begin, end, n, j, t, sum);
      }
      for (; j + kVector <= f.width; j += kVector) {
        sum_events<1, false>(f, begin, end, n, j, t, sum);
      }
      if (j < f.width) sum_events<1, true>(f, begin, end, n, j, t, sum);
    }
    if (sums == nullptr) continue;
    for (int64_t n = 0; n < f.sizes; ++n) {
      const int64_t at = (n * kTileRows + i) * f.padded_width;
      for (int64_t j = 0; j < f.padded_width; j += kVector) {
        const int64_t column = n * f.padded_width + j;
        const Vector t = load(activation + column);
        const Vector dy = load(summed + column) * (1.0f - t * t);
        const Vector y = load(tile.normalised + at + j);
        store(tile.slope + at + j, dy);
        store(sums + column, load(sums + column) + dy);
        store(sums + all_columns + column, load(sums + all_columns + column) + dy * y);
      }
    }
  }
}

void propagate(const Field& f, const Tile& tile, float* projection_grad) {
  for (int64_t n = 0; n < f.sizes; ++n) {
    for (int64_t i = 0; i < tile.rows; ++i) {
      const int64_t at = (n * kTileRows + i) * f.padded_width;
      for (int64_t j = 0; j < f.padded_width; j += kVector) {
        Vector dy = load(tile.slope + at + j);
        const int64_t column = n * f.padded_width + j;
        if (f.share != nullptr) {  // by way of the batch's statistics
          const Vector y = load(tile.normalised + at + j);
          dy -= f.share[tile.begin + i] * (load(f.sum + column) + y * load(f.product + column));
        }
        store(tile.slope + at + j, dy * load(f.scale + column));
      }
    }
  }
  const float* b = f.by_total;
  for (int64_t n = 0, column = 0; n < f.sizes; column += f.dims[n++]) {
    const int64_t columns = padded(f.dims[n]);
    const float* dz = tile.slope + n * kTileRows * f.padded_width;
    float* const result = tile.normalised;  // not needed any more
    multiply({tile.rows, columns, f.width, dz, f.padded_width, 1, b, 0, f.width * kPanel, result,
              columns, Start::kZero, nullptr});
    multiply({f.dims[n], f.padded_width, tile.rows, tile.embeddings + column, 1, f.total, dz,
              f.padded_width, kPanel, projection_grad + column * f.padded_width, f.padded_width,
              Start::kResult, nullptr});
    for (int64_t i = 0; i < tile.rows; ++i) {
      memcpy(tile.embeddings + i * f.total + column, result + i * columns,
             sizeof(float) * static_cast<size_t>(f.dims[n]));
    }
    b += columns * f.width;
  }
}

void tanh_all(const float* x, float* y, int64_t count) {
  for (int64_t j = 0; j < count; j += kVector) {
    float last[kVector] = {};
    const size_t bytes =
        sizeof(float) * static_cast<size_t>(count - j < kVector ? count - j : kVector);
    memcpy(last, x + j, bytes);
    store(last, tanh_of(load(last)));
    memcpy(y + j, last, bytes);
  }
}

}  // namespace
}  // namespace autoemb::cpu
