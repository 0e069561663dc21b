// Tiles of 32 rows by 64 columns of z = (e - shift) W^T, made by blocks of 256 threads: gathered
// rows and a part of the projection in shared memory, products in registers.
#pragma once

#include "product.cuh"
#include "storage.cuh"
#include "tiling.h"

namespace autoemb {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kFragments = 2;
using Tile = Accumulator<kFragments>;

// Warps are 2 x 4: 16 rows and 16 columns each. A thread's rows are tile_row() and 8 below it.
__device__ inline int strip() { return warp() % 2; }
__device__ inline int tile_row() { return 16 * strip() + Tile::row(); }
__device__ inline int warp_column() { return 16 * (warp() / 2); }
__device__ inline int tile_column(int c) { return warp_column() + Tile::column(c); }

// Columns [begin, begin + length) of a size.
struct Piece {
  int size, begin, length;
  __device__ int stride() const { return row_stride(length); }
};

__device__ inline Piece piece_of(const Batch& batch, int size, int i) {
  return {size, i * kPiece, min(kPiece, batch.dims[size] - i * kPiece)};
}

// Piece `index` of those of all sizes.
__device__ inline Piece nth_piece(const Batch& batch, int index) {
  int n = 0;
  while (index >= num_pieces(batch.dims[n])) index -= num_pieces(batch.dims[n++]);
  return piece_of(batch, n, index);
}

// W[col][k] of 64 columns of the output from `column` on; zero where there is none.
__device__ inline void load_projection(const Batch& batch, int field, const Piece& piece,
                                       int column, float* to) {
  const float* from = batch.projection +
                      (static_cast<int64_t>(field) * batch.width + column) * batch.total +
                      offset_of(batch, piece.size) + piece.begin;
  const int depth = padded(piece.length), stride = piece.stride();
  for (int k = lane(); k < depth; k += kWarp) {
#pragma unroll
    for (int j = warp(); j < kTileColumns; j += kWarps) {
      const bool inside = k < piece.length && column + j < batch.width;
      to[j * stride + k] = inside ? from[static_cast<int64_t>(j) * batch.total + k] : 0.0f;
    }
  }
}

constexpr int kRowsPerWarp = kTileRows / kWarps;

template <class Vector>
__device__ inline void copy_rows(const float* const (&from)[kRowsPerWarp], const float* shift,
                                 int length, int stride, float* to) {
  constexpr int kWidth = sizeof(Vector) / sizeof(float);
  for (int k = lane() * kWidth; k < padded(length); k += kWarp * kWidth) {
    union {
      Vector vector;
      float numbers[kWidth];
    } values[kRowsPerWarp];
#pragma unroll
    for (int i = 0; i < kRowsPerWarp; ++i) {  // all loads before the first store
#pragma unroll
      for (int w = 0; w < kWidth; ++w) values[i].numbers[w] = 0.0f;
      if (from[i] && k < length) values[i].vector = *reinterpret_cast<const Vector*>(from[i] + k);
    }
#pragma unroll
    for (int i = 0; i < kRowsPerWarp; ++i) {
      if (from[i] && k < length && shift) {
#pragma unroll
        for (int w = 0; w < kWidth; ++w) values[i].numbers[w] -= shift[k + w];
      }
      *reinterpret_cast<Vector*>(to + i * stride + k) = values[i].vector;
    }
  }
}

// e - shift of 32 rows; zero where there is no row. `row_number(i)` is the row of tile row i or -1,
// `shift` the shift of the whole field or null.
template <class RowNumber>
__device__ inline void load_rows(const Batch& batch, const Slot& slot, const Piece& piece,
                                 const float* shift, RowNumber row_number, bool* present,
                                 float* to) {
  const int first = warp() * kRowsPerWarp;
  const float* from[kRowsPerWarp];
  uintptr_t alignment = static_cast<uintptr_t>(piece.length) * sizeof(float);
#pragma unroll
  for (int i = 0; i < kRowsPerWarp; ++i) {
    const int64_t row = row_number(first + i);
    from[i] = row >= 0 ? slot.base + row * slot.stride + piece.begin : nullptr;
    alignment |= reinterpret_cast<uintptr_t>(from[i]);
    if (lane() == 0) present[first + i] = row >= 0;
  }
  if (shift) shift += offset_of(batch, piece.size) + piece.begin;
  to += first * piece.stride();
  if (alignment % 16 == 0) {
    copy_rows<float4>(from, shift, piece.length, piece.stride(), to);
  } else if (alignment % 8 == 0) {
    copy_rows<float2>(from, shift, piece.length, piece.stride(), to);
  } else {
    copy_rows<float>(from, shift, piece.length, piece.stride(), to);
  }
}

template <Mode kMode>
__device__ inline bool is_exact(const Batch& batch, const Piece& piece) {
  return kMode == Mode::kIeee || batch.dims[piece.size] <= kExactDim;
}

template <Mode kMode>
__device__ inline void multiply_piece(const Batch& batch, const float* rows, const float* weights,
                                      const Piece& piece, Tile& z) {
  const int stride = piece.stride();
  multiply<kMode>(Rows{rows + 16 * strip() * stride, stride},
                  Rows{weights + warp_column() * stride, stride}, padded(piece.length),
                  is_exact<kMode>(batch, piece), z);
}

// Calls visit(event of tile row 0, size, z, present) for every tile of events of this block's group
// and every size, where `present[i]` says whether tile row i has a row of that size. `memory` is
// tiling.weight_floats + tiling.row_floats of shared memory. Where the projection of all sizes fits
// it is loaded once, and all rows of a tile are on their way at the same time.
template <Mode kMode, class Visit>
__device__ inline void project_events(const Batch& batch, const Tiling& tiling, int field,
                                      int group, int column, const float* shift, float* memory,
                                      Visit visit) {
  __shared__ bool present[kMaxSizes][kTileRows];
  float* weights = memory;
  float* rows = memory + tiling.weight_floats;

  const auto each_piece = [&](auto act) {
    int offset = 0;
    for (int n = 0; n < batch.sizes; ++n) {
      for (int i = 0; i < num_pieces(batch.dims[n]); ++i) {
        const Piece piece = piece_of(batch, n, i);
        act(piece, weights + offset * kTileColumns, rows + offset * kTileRows);
        if (tiling.resident) offset += piece.stride();
      }
    }
  };

  if (tiling.resident) {
    each_piece([&](const Piece& piece, float* w, float*) {
      load_projection(batch, field, piece, column, w);
    });
  }
  const int num_tiles = ceil_div(batch.events, kTileRows);
  for (int tile = group; tile < num_tiles; tile += tiling.groups) {
    const int first = tile * kTileRows;
    const auto load = [&](const Piece& piece, float* to) {
      const Slot& slot = slot_of(batch, field, piece.size);
      const auto row_number = [&](int i) {
        return first + i < batch.events ? row_of(batch, slot, field, first + i) : int64_t{-1};
      };
      load_rows(batch, slot, piece, shift, row_number, present[piece.size], to);
    };
    if (tiling.resident) {
      each_piece([&](const Piece& piece, float*, float* r) { load(piece, r); });
      __syncthreads();
    }
    Tile z;
    each_piece([&](const Piece& piece, float* w, float* r) {
      if (!tiling.resident) {
        __syncthreads();
        load_projection(batch, field, piece, column, w);
        load(piece, r);
        __syncthreads();
      }
      multiply_piece<kMode>(batch, r, w, piece, z);
      if (piece.begin + piece.length == batch.dims[piece.size]) {
        visit(first, piece.size, z, present[piece.size]);
        z = Tile();
      }
    });
    __syncthreads();
  }
}

// The columns of one warp's part of a tile, normalised.
struct NormalisedColumns {
  float centre[Tile::kColumns], scale[Tile::kColumns];

  __device__ NormalisedColumns(const Batch& batch, const Normaliser& normaliser, int field,
                               int size, int column) {
#pragma unroll
    for (int c = 0; c < Tile::kColumns; ++c) {
      const int j = column + tile_column(c);
      centre[c] = scale[c] = 0.0f;
      if (j >= batch.width) continue;
      const int64_t i = statistic_index(batch, field, size, j);
      centre[c] = normaliser.mean[i] - (normaliser.bias ? normaliser.bias[i] : 0.0f);
      scale[c] = 1.0f / sqrtf(normaliser.variance[i] + normaliser.eps);
    }
  }
  __device__ float operator()(float z, int c) const { return (z - centre[c]) * scale[c]; }
};

}  // namespace autoemb
