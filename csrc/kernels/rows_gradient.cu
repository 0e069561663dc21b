// Gradient of every distinct row: dE = dz W^T with dz as in reduce.cu. z and dy are made a second
// time: that costs less than to write dy, which is N times the output, and to read it again.
#include "segment.cuh"

namespace autoemb {
namespace {

constexpr int kRowsFragments = 4;  // 32 columns of a row for each of 4 warps

// Grid: (pieces x tiles) x fields. Tiles without a distinct row write the zeros of the padding.
template <Mode kMode>
__global__ void __launch_bounds__(kThreads, 2)
    rows_gradient_kernel(const __grid_constant__ RowsGradientParams p) {
  __shared__ DistinctTile tile;
  __shared__ bool present[kTileRows];
  const Batch& batch = p.batch;
  const int pieces = count_pieces(batch);
  const Piece piece = nth_piece(batch, blockIdx.x % pieces);
  const int n = piece.size;
  const int field = blockIdx.y, first = blockIdx.x / pieces * kTileRows;
  const bool last_piece = piece.begin + piece.length == batch.dims[n];
  const float* shift = p.normaliser.shift;
  if (shift) shift += static_cast<int64_t>(field) * batch.total;
  // In this order: what is read beyond the columns of a narrow size is in shared memory still.
  float* weights = dynamic_shared<float>();
  float* rows = weights + p.tiling.weight_floats;
  float* staged = rows + p.tiling.row_floats;

  Accumulator<kRowsFragments> gradient;
  const int used = tile.load(batch, p.segments, field, first);
  __syncthreads();
  // m/B: exactly 1 where all events share an id, so that their gradient is exactly zero.
  float share[2] = {};
  if (p.training && used > 0) {
    const float count = p.count[field * batch.sizes + n];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float events = static_cast<float>(tile.count(tile_row() + 8 * r));
      share[r] = count > 0.0f ? events / count : 0.0f;
    }
  }
  for (int column = 0; used > 0 && column < batch.width; column += kTileColumns) {
    Tile z, dy;
    project_distinct<kMode>(batch, p.segments, shift, tile, field, n, column, column == 0, true,
                            present, rows, weights, z);
    differentiate(batch, p.segments, p.normaliser, tile, present, field, n, column, z, dy);
    const NormalisedColumns normalised(batch, p.normaliser, field, n, column);
#pragma unroll
    for (int c = 0; c < Tile::kColumns; ++c) {
      const int j = column + tile_column(c);
      const bool correct = p.training && j < batch.width;
      const int64_t i = statistic_index(batch, field, n, j);
      const float sum_1 = correct ? p.first[i] : 0.0f, sum_2 = correct ? p.second[i] : 0.0f;
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        dy.values[r][c] =
            normalised.scale[c] * (dy.values[r][c] - share[r] * (sum_1 + z.values[r][c] * sum_2));
      }
    }
    stage(dy, staged);
    __syncthreads();
    if (!last_piece) {
      load_projection(batch, field, piece, column, weights);
      __syncthreads();
    }
    const int k = 32 * (warp() / 2);
    if (k < piece.length) {
      multiply<kMode>(Rows{staged + 16 * strip() * kStagedStride, kStagedStride},
                      Columns{weights + k, piece.stride()}, kTileColumns,
                      is_exact<kMode>(batch, piece), gradient);
    }
  }

#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row = tile_row() + 8 * r;
    if (first + row >= batch.events) continue;
    float* to = p.rows_grad +
                (static_cast<int64_t>(field) * batch.events + first + row) * batch.total +
                offset_of(batch, n) + piece.begin;
    const bool zero = row >= used || !present[row];
#pragma unroll
    for (int c = 0; c < gradient.kColumns; ++c) {
      const int k = 32 * (warp() / 2) + gradient.column(c);
      if (k < piece.length) to[k] = zero ? 0.0f : gradient.values[r][c];
    }
  }
}

}  // namespace

void rows_gradient(const RowsGradientParams& params, Mode mode, Stream stream) {
  const auto kernel = mode == Mode::kIeee   ? rows_gradient_kernel<Mode::kIeee>
                      : mode == Mode::kTf32 ? rows_gradient_kernel<Mode::kTf32>
                                            : rows_gradient_kernel<Mode::kBf16>;
  const size_t shared = sizeof(float) * (params.tiling.weight_floats + params.tiling.row_floats +
                                         kTileRows * kStagedStride);
  launch("rows_gradient", kernel,
         dim3(count_pieces(params.batch) * ceil_div(params.batch.events, kTileRows),
              params.batch.fields),
         kThreads, shared, stream, params);
}

}  // namespace autoemb
