// How work is cut: into tiles of rows and columns, and these over blocks. Seen by kernels, their
// launchers and the module alike.
#pragma once

#include <algorithm>
#include <stdexcept>
#include <string>

#include "params.h"

#ifdef __CUDACC__
#define AUTOEMB_EVERYWHERE __host__ __device__
#else
#define AUTOEMB_EVERYWHERE
#endif

namespace autoemb {

constexpr int kTileRows = 32;
constexpr int kTileColumns = 64;
constexpr int kPiece = 128;  // columns of a row that are in shared memory at a time
// Narrower sizes are multiplied in float32 in every mode. They are an eighth of the arithmetic, and
// what little variance a column of theirs has may cancel in its gradient: rounded to tf32, the
// gradient of one of a size of 1 was off by 2.2e-3.
constexpr int kExactDim = 16;
constexpr int kWindow = 32;        // sorted events that are summed ahead where they share an id
constexpr int kPositionBits = 11;  // of an event, beside its id in one sort key
constexpr int kMaxSorted = 1 << kPositionBits;  // events that one block sorts
constexpr int64_t kMaxIds = int64_t{1} << (63 - kPositionBits);

AUTOEMB_EVERYWHERE constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }

// Depths are padded with zeros to a multiple of 16, the k of one bf16 mma.
AUTOEMB_EVERYWHERE constexpr int padded(int length) { return ceil_div(length, 16) * 16; }

// Numbers from a row of an operand to the next: 4 more than a multiple of 16, so that neither 8
// rows read by float4 nor 8 x 4 numbers of an mma operand share a bank of shared memory.
AUTOEMB_EVERYWHERE constexpr int row_stride(int length) { return padded(length) + 4; }

// 99 KB is the most that one block gets on sm_86, sm_89 and sm_120; 3 KB are left to static arrays.
constexpr int kSharedFloats = 96 * 1024 / 4;
// Four blocks for each of an H100's 132 processors; more would only add partial results.
constexpr int kBlocks = 512;

AUTOEMB_EVERYWHERE constexpr int num_pieces(int dim) { return ceil_div(dim, kPiece); }

AUTOEMB_EVERYWHERE inline int count_pieces(const Batch& batch) {
  int count = 0;
  for (int n = 0; n < batch.sizes; ++n) count += num_pieces(batch.dims[n]);
  return count;
}

// What the statistics need beside the operands: a shift, and moments of two strips a size.
inline int statistics_floats(const Batch& batch) {
  return padded(batch.total) + batch.sizes * 3 * 2 * kTileColumns;
}

inline Tiling tiling(const Batch& batch, int blocks_per_group, bool resident_if_possible) {
  int all = 0, widest = 0;
  for (int n = 0; n < batch.sizes; ++n) {
    for (int begin = 0; begin < batch.dims[n]; begin += kPiece) {
      const int stride = row_stride(std::min(kPiece, batch.dims[n] - begin));
      all += stride;
      widest = std::max(widest, stride);
    }
  }
  const int per_stride = kTileRows + kTileColumns;
  const bool resident =
      resident_if_possible && all * per_stride + statistics_floats(batch) <= kSharedFloats;
  const int stride = resident ? all : widest;
  const int tiles = ceil_div(batch.events, kTileRows);
  const int groups = std::max(1, std::min(tiles, kBlocks / (batch.fields * blocks_per_group)));
  return {groups, ceil_div(batch.width, kTileColumns), resident, kTileColumns * stride,
          kTileRows * stride};
}

// Of kernels that go through events, and of those that go through distinct rows.
inline Tiling event_tiling(const Batch& batch) {
  return tiling(batch, ceil_div(batch.width, kTileColumns), true);
}
inline Tiling distinct_tiling(const Batch& batch) {
  return tiling(batch, ceil_div(batch.width, kTileColumns) * count_pieces(batch), false);
}

inline void check_shared_memory(const Batch& batch) {
  const Tiling tiling = event_tiling(batch);
  if (tiling.weight_floats + tiling.row_floats + statistics_floats(batch) > kSharedFloats) {
    throw std::invalid_argument("the sizes are too wide for the kernels: their sum is " +
                                std::to_string(batch.total));
  }
}

}  // namespace autoemb
