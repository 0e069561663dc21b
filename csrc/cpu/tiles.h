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
      for (int64_t k = 0; k < f.dims[n]; ++k) {
        for (int64_t i = 0; i < columns; ++i) {
          *to++ = j + i < f.width ? f.projection[(j + i) * f.total + column + k] : 0.0f;
        }
      }
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

// Asks for the rows of distinct ids at once: one by one, each would wait for memory.
void prefetch(const Field& f, int64_t begin, int64_t end) {
  constexpr int64_t kLine = 64 / sizeof(float);
  for (int64_t u = begin; u < end; ++u) {
    for (int64_t n = 0; n < f.sizes; ++n) {
      const int64_t row = f.rows[n][u];
      if (row < 0) continue;
      const float* from = f.tables[n].base + row * f.tables[n].stride;
      for (int64_t k = 0; k < f.dims[n]; k += kLine) __builtin_prefetch(from + k);
    }
  }
}

void sum_rows(const Field& f, int64_t begin, int64_t end, double* sums) {
  prefetch(f, begin, end);
  for (int64_t n = 0, column = 0; n < f.sizes; column += f.dims[n++]) {
    double* __restrict const sum = sums + column;
    const int64_t width = f.dims[n];
    for (int64_t u = begin; u < end; ++u) {
      const int64_t row = f.rows[n][u];
      if (row < 0) continue;
      const float* __restrict const from = f.tables[n].base + row * f.tables[n].stride;
      const double share = f.share[n * f.distinct + u];
      for (int64_t k = 0; k < width; ++k) sum[k] += share * from[k];
    }
  }
}

void gather(const Field& f, const Tile& tile) {
  for (int64_t n = 0, column = 0; n < f.sizes; column += f.dims[n++]) {
    const Table& table = f.tables[n];
    for (int64_t i = 0; i < tile.rows; ++i) {
      const int64_t row = f.rows[n][tile.begin + i];
      float* to = tile.embeddings + i * f.total_stride + column;
      if (row < 0) {
        memset(to, 0, sizeof(float) * static_cast<size_t>(f.dims[n]));
        continue;
      }
      const float* from = table.base + row * table.stride;
      for (int64_t k = 0; k < f.dims[n]; ++k) to[k] = from[k] - f.centre[column + k];
    }
  }
}

void project(const Field& f, const Tile& tile) {
  const float* b = f.by_width;
  for (int64_t n = 0, column = 0; n < f.sizes; column += f.dims[n++]) {
    multiply({tile.rows, f.padded_width, f.dims[n], tile.embeddings + column, f.total_stride, 1, b,
              0, f.dims[n] * kPanel, tile.normalised + n * kTileRows * f.padded_width,
              f.padded_width, Start::kColumns, f.shift + n * f.padded_width});
    b += f.dims[n] * f.padded_width;
  }
}

void sum_squares(const Field& f, const Tile& tile, float* squares) {
  for (int64_t n = 0; n < f.sizes; ++n) {
    const float* share = f.share + n * f.distinct + tile.begin;
    const float* values = tile.normalised + n * kTileRows * f.padded_width;
    float* sums = squares + n * f.padded_width;
    for (int64_t j = 0; j < f.padded_width; j += kVector) {
      Vector sum{};
      for (int64_t i = 0; i < tile.rows; ++i) {
        const Vector value = load(values + i * f.padded_width + j);
        sum += share[i] * value * value;
      }
      store(sums + j, sum);
    }
  }
}

// Scales a row of one size in place and gives its tanh; an id without such a row has 0.
void activate(const Field& f, const Tile& tile, int64_t n, int64_t i, float* activation) {
  float* values = tile.normalised + (n * kTileRows + i) * f.padded_width;
  const float* scale = f.scale + n * f.padded_width;
  const bool absent = f.rows[n][tile.begin + i] < 0;
  for (int64_t j = 0; j < f.padded_width; j += kVector) {
    const Vector y = absent ? Vector{} : load(values + j) * load(scale + j);
    store(values + j, y);
    store(activation + j, tanh_of(y));
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

// Vector j of a row of D floats; beyond D: zeros.
inline Vector load_row(const float* row, int64_t j, int64_t width) {
  if (j + kVector <= width) return load(row + j);
  float last[kVector] = {};
  for (int64_t lane = 0; j + lane < width; ++lane) last[lane] = row[j + lane];
  return load(last);
}

// For one id and size, columns j to j + V vectors: adds weight * gradient of its events to `sum`,
// and their products with the activation to the gradients of their weights. Both rows stay in
// registers.
template <int V>
inline void sum_events(const Field& f, int64_t begin, int64_t end, int64_t n, int64_t j,
                       const float* activation, float* sum) {
  Vector t[V], sums[V] = {};
  for (int v = 0; v < V; ++v) t[v] = load(activation + v * kVector);
  for (int64_t at = begin; at < end; ++at) {
    const int64_t event = f.order[at];
    const float* grad = f.grad + event * f.grad_stride;
    const float weight =
        f.weights[event * f.weights_event_stride + n * f.weights_size_stride] * f.factor;
    Vector inner{};
    for (int v = 0; v < V; ++v) {
      const Vector g = load_row(grad, j + v * kVector, f.width);
      inner += g * t[v];
      sums[v] += weight * g;
    }
    float& result = f.weights_grad[event * f.weights_grad_stride + n];
    result = (j == 0 ? 0.0f : result) + sum_lanes(inner) * f.factor;
  }
  for (int v = 0; v < V; ++v) store(sum + v * kVector, sums[v]);
}

void differentiate(const Field& f, const Tile& tile, float* sums) {
  constexpr int kAtOnce = kVector == 16 ? 8 : 4;  // two such rows fit into the registers
  const int64_t all_columns = f.sizes * f.padded_width;
  float* activation = tile.row;
  float* summed = tile.row + all_columns;  // of weight * gradient over the events of the id
  if (sums != nullptr) memset(sums, 0, sizeof(float) * static_cast<size_t>(2 * all_columns));
  for (int64_t i = 0; i < tile.rows; ++i) {
    const int64_t begin = f.starts[tile.begin + i], end = f.starts[tile.begin + i + 1];
    for (int64_t n = 0; n < f.sizes; ++n) {
      float* t = activation + n * f.padded_width;
      float* sum = summed + n * f.padded_width;
      activate(f, tile, n, i, t);
      int64_t j = 0;
      for (; j + kAtOnce * kVector <= f.padded_width; j += kAtOnce * kVector) {
        sum_events<kAtOnce>(f, begin, end, n, j, t + j, sum + j);
      }
      for (; j < f.padded_width; j += kVector) {
        sum_events<1>(f, begin, end, n, j, t + j, sum + j);
      }
    }
    if (sums == nullptr) continue;
    for (int64_t n = 0; n < f.sizes; ++n) {
      const bool absent = f.rows[n][tile.begin + i] < 0;
      const int64_t at = (n * kTileRows + i) * f.padded_width;
      for (int64_t j = 0; j < f.padded_width; j += kVector) {
        const int64_t column = n * f.padded_width + j;
        const Vector t = load(activation + column);
        const Vector dy = absent ? Vector{} : load(summed + column) * (1.0f - t * t);
        const Vector y = load(tile.normalised + at + j);
        store(tile.slope + at + j, dy);
        store(sums + column, load(sums + column) + dy);
        store(sums + all_columns + column, load(sums + all_columns + column) + dy * y);
      }
    }
  }
}

void propagate(const Field& f, const Tile& tile, float* embeddings_grad, float* projection_grad) {
  for (int64_t n = 0; n < f.sizes; ++n) {
    const float* scale = f.scale + n * f.padded_width;
    const float* sum = f.sum + n * f.padded_width;
    const float* product = f.product + n * f.padded_width;
    for (int64_t i = 0; i < tile.rows; ++i) {
      const int64_t at = (n * kTileRows + i) * f.padded_width;
      const float share = f.share == nullptr ? 0.0f : f.share[n * f.distinct + tile.begin + i];
      for (int64_t j = 0; j < f.padded_width; j += kVector) {
        const Vector y = load(tile.normalised + at + j);
        const Vector common = share * (load(sum + j) + y * load(product + j));
        store(tile.slope + at + j, (load(tile.slope + at + j) - common) * load(scale + j));
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
    for (int64_t i = 0; i < tile.rows; ++i) {
      memcpy(embeddings_grad + i * f.total + column, result + i * columns,
             sizeof(float) * static_cast<size_t>(f.dims[n]));
    }
    b += columns * f.width;
    multiply({f.dims[n], f.padded_width, tile.rows, tile.embeddings + column, 1, f.total_stride, dz,
              f.padded_width, kPanel, projection_grad + column * f.padded_width, f.padded_width,
              Start::kResult, nullptr});
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
