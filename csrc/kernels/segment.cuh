// T = sum of a_bn G_b over the events of a distinct id, in the order of the events. Whole windows
// of 32 sorted positions that lie within one id were summed before, in parallel, so that a hot id
// (the longest of 65,536 Zipf events has 6,000) takes 6,000 / 32 additions here, not 6,000.
#pragma once

#include "tile.cuh"

namespace autoemb {

// Adds the events at sorted positions [begin, end); columns are column(c).
template <class Column>
__device__ inline void add_events(const Segments& segments, const int64_t* order, int begin,
                                  int end, int field, int size, int width, Column column,
                                  float (&sum)[Tile::kColumns]) {
  for (int i = begin; i < end; ++i) {
    const int64_t event = order[i];
    const float weight =
        segments.weights.data[event * segments.weights.event + field * segments.weights.field +
                              size * segments.weights.size];
    const float* grad =
        segments.grad.data + event * segments.grad.event + field * segments.grad.field;
#pragma unroll
    for (int c = 0; c < Tile::kColumns; ++c) {
      const int j = column(c);
      if (j < width) sum[c] += weight * grad[j * segments.grad.size];
    }
  }
}

// Sum over a whole segment [begin, end) for the columns of this thread.
__device__ inline void sum_segment(const Batch& batch, const Segments& segments, int begin, int end,
                                   int field, int size, int column, float (&sum)[Tile::kColumns]) {
  const int64_t* order = segments.order + static_cast<int64_t>(field) * batch.events;
  const auto column_at = [&](int c) { return column + tile_column(c); };
  const int first = ceil_div(begin, kWindow), last = end / kWindow;
  const int head = first < last ? first * kWindow : end;
  add_events(segments, order, begin, head, field, size, batch.width, column_at, sum);
  if (first >= last) return;
  const float* windows =
      segments.windows +
      (static_cast<int64_t>(field) * segments.num_windows * batch.sizes + size) * batch.width;
  for (int w = first; w < last; ++w) {
    const float* window = windows + static_cast<int64_t>(w) * batch.sizes * batch.width;
#pragma unroll
    for (int c = 0; c < Tile::kColumns; ++c) {
      if (column_at(c) < batch.width) sum[c] += window[column_at(c)];
    }
  }
  add_events(segments, order, last * kWindow, end, field, size, batch.width, column_at, sum);
}

// The distinct rows of one tile.
struct DistinctTile {
  int begin[kTileRows + 1];  // first sorted position of each row's events; equal: padding

  // By the whole block, before a barrier. Returns how many rows are in use.
  __device__ int load(const Batch& batch, const Segments& segments, int field, int first) {
    const int64_t* starts = segments.starts + static_cast<int64_t>(field) * (batch.events + 1);
    for (int i = threadIdx.x; i <= kTileRows; i += blockDim.x) {
      begin[i] = static_cast<int>(starts[min(first + i, batch.events)]);
    }
    return min(kTileRows, static_cast<int>(segments.used[field]) - first);
  }

  __device__ int count(int row) const { return begin[row + 1] - begin[row]; }

  // The row in the table of tile row i, from any of its events.
  __device__ int64_t row_number(const Batch& batch, const Segments& segments, const Slot& slot,
                                int field, int i) const {
    if (count(i) == 0) return -1;
    const int64_t at = static_cast<int64_t>(field) * batch.events + begin[i];
    return row_of(batch, slot, field, static_cast<int>(segments.order[at]));
  }
};

// y and dy = (1/N) T (1 - tanh(y)^2) of this thread's part of a tile, from z in place; zero where
// there is no row.
__device__ inline void differentiate(const Batch& batch, const Segments& segments,
                                     const Normaliser& normaliser, const DistinctTile& tile,
                                     const bool* present, int field, int size, int column, Tile& z,
                                     Tile& dy) {
  const NormalisedColumns normalised(batch, normaliser, field, size, column);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row = tile_row() + 8 * r;
    float sum[Tile::kColumns] = {};
    if (present[row]) {
      sum_segment(batch, segments, tile.begin[row], tile.begin[row + 1], field, size, column, sum);
    }
#pragma unroll
    for (int c = 0; c < Tile::kColumns; ++c) {
      const float y = present[row] ? normalised(z.values[r][c], c) : 0.0f;
      const float t = tanhf(y);
      z.values[r][c] = y;
      dy.values[r][c] = normaliser.factor * sum[c] * (1.0f - t * t);
    }
  }
}

constexpr int kStagedStride = kTileColumns + 4;  // as row_stride

// Writes this thread's part of a tile to shared memory [32][kStagedStride].
__device__ inline void stage(const Tile& tile, float* to) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
#pragma unroll
    for (int c = 0; c < Tile::kColumns; ++c) {
      to[(tile_row() + 8 * r) * kStagedStride + tile_column(c)] = tile.values[r][c];
    }
  }
}

// z of a tile of distinct rows for one size and 64 columns. `rows` and `weights` of shared memory
// hold one piece, and the last one afterwards. A size of one piece need not be loaded where it is
// still there.
template <Mode kMode>
__device__ inline void project_distinct(const Batch& batch, const Segments& segments,
                                        const float* shift, const DistinctTile& tile, int field,
                                        int size, int column, bool new_rows, bool new_weights,
                                        bool* present, float* rows, float* weights, Tile& z) {
  const Slot& slot = slot_of(batch, field, size);
  const auto row_number = [&](int i) { return tile.row_number(batch, segments, slot, field, i); };
  const int pieces = num_pieces(batch.dims[size]);
  for (int i = 0; i < pieces; ++i) {
    const Piece piece = piece_of(batch, size, i);
    __syncthreads();
    if (new_weights || pieces > 1) load_projection(batch, field, piece, column, weights);
    if (new_rows || pieces > 1) {
      load_rows(batch, slot, piece, shift, row_number, present, rows);
    }
    __syncthreads();
    multiply_piece<kMode>(batch, rows, weights, piece, z);
  }
}

}  // namespace autoemb
