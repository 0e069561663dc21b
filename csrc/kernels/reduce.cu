// The sums over a batch that its gradients need. With dy the gradient of y, m the multiplicity of a
// distinct row and s = 1/sqrt(variance + eps), the gradient of z, summed over an id's events, is
//     dz = s (dy - (m/B) (S1 + y S2)),  S1 = sum dy,  S2 = sum dy y,
// so that dW = sum e dz = s (sum e dy - (S1 sum m e + S2 sum m e y) / B), for rows e with any
// shift. In eval mode dz = s dy. Sums per block over its tiles, then over the blocks in their
// order.
#include "segment.cuh"

namespace autoemb {
namespace {

constexpr int kReduceFragments = kTileColumns / 8;

__device__ void store_product(const Batch& batch, const Piece& piece, int column,
                              const Accumulator<kReduceFragments>& product, float* to) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int k = 16 * warp() + product.row() + 8 * r;
    if (k >= piece.length) continue;
#pragma unroll
    for (int c = 0; c < product.kColumns; ++c) {
      const int j = column + product.column(c);
      if (j >= batch.width) continue;
      to[static_cast<int64_t>(j) * batch.total + offset_of(batch, piece.size) + piece.begin + k] =
          product.values[r][c];
    }
  }
}

// Grid: (pieces x column blocks) x groups x fields. Blocks that read the same gradients are
// neighbours.
template <Mode kMode>
__global__ void __launch_bounds__(kThreads) reduce_kernel(const __grid_constant__ ReduceParams p) {
  __shared__ DistinctTile tile;
  __shared__ bool present[kTileRows];
  const Batch& batch = p.batch;
  const int pieces = count_pieces(batch), field = blockIdx.z, group = blockIdx.y;
  const Piece piece = nth_piece(batch, blockIdx.x % pieces);
  const int column = blockIdx.x / pieces * kTileColumns;
  const int n = piece.size;
  const bool exact = is_exact<kMode>(batch, piece);
  const bool last_piece = piece.begin + piece.length == batch.dims[n];
  const float* shift = p.normaliser.shift;
  if (shift) shift += static_cast<int64_t>(field) * batch.total;
  float* weights = dynamic_shared<float>();
  float* rows = weights + p.tiling.weight_floats;
  float* staged_dy = rows + p.tiling.row_floats;
  float* staged_y = staged_dy + kTileRows * kStagedStride;

  Accumulator<kReduceFragments> product, covariance;
  float first[Tile::kColumns] = {}, second[Tile::kColumns] = {};
  float row_sum = 0.0f, count = 0.0f;
  const int used = static_cast<int>(p.segments.used[field]);
  for (int at = group * kTileRows; at < used; at += p.tiling.groups * kTileRows) {
    __syncthreads();
    tile.load(batch, p.segments, field, at);
    __syncthreads();
    Tile z, dy;
    project_distinct<kMode>(batch, p.segments, shift, tile, field, n, column, true,
                            at == group * kTileRows, present, rows, weights, z);
    differentiate(batch, p.segments, p.normaliser, tile, present, field, n, column, z, dy);
#pragma unroll
    for (int c = 0; c < Tile::kColumns; ++c) {
      first[c] += dy.values[0][c] + dy.values[1][c];
      second[c] += dy.values[0][c] * z.values[0][c] + dy.values[1][c] * z.values[1][c];
    }
    stage(dy, staged_dy);
    if (p.training) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float events = static_cast<float>(tile.count(tile_row() + 8 * r));
#pragma unroll
        for (int c = 0; c < Tile::kColumns; ++c) z.values[r][c] *= events;
      }
      stage(z, staged_y);
    }
    __syncthreads();
    if (!last_piece) {
      const Slot& slot = slot_of(batch, field, n);
      load_rows(
          batch, slot, piece, shift,
          [&](int i) { return tile.row_number(batch, p.segments, slot, field, i); }, present, rows);
      __syncthreads();
    }
    const int stride = piece.stride();
    if (16 * warp() < piece.length) {
      const Columns left{rows + 16 * warp(), stride};
      multiply<kMode>(left, Columns{staged_dy, kStagedStride}, kTileRows, exact, product);
      if (p.training) {
        multiply<kMode>(left, Columns{staged_y, kStagedStride}, kTileRows, exact, covariance);
      }
    }
    for (int i = 0; i < kTileRows; ++i) {
      const float events = present[i] ? static_cast<float>(tile.count(i)) : 0.0f;
      count += events;
      if (static_cast<int>(threadIdx.x) < piece.length) {
        row_sum += events * rows[i * stride + threadIdx.x];
      }
    }
  }
  if (group * kTileRows >= used) return;  // finalise knows

  const int64_t part = static_cast<int64_t>(group) * batch.fields + field;
  const int64_t matrix = part * batch.width * batch.total;
  store_product(batch, piece, column, product, p.sums.product + matrix);
  if (p.training) store_product(batch, piece, column, covariance, p.sums.covariance + matrix);
  if (column == 0 && static_cast<int>(threadIdx.x) < piece.length) {
    p.sums.rows[part * batch.total + offset_of(batch, n) + piece.begin + threadIdx.x] = row_sum;
  }
  if (piece.begin != 0) return;
  if (column == 0 && threadIdx.x == 0) p.sums.count[part * batch.sizes + n] = count;

  __syncthreads();  // the staged tiles are free
#pragma unroll
  for (int c = 0; c < Tile::kColumns; ++c) {
    const float a = sum_lanes(first[c], 4 | 8 | 16), b = sum_lanes(second[c], 4 | 8 | 16);
    if (lane() < 4) {
      staged_dy[strip() * kTileColumns + tile_column(c)] = a;
      staged_y[strip() * kTileColumns + tile_column(c)] = b;
    }
  }
  __syncthreads();
  const int j = threadIdx.x;
  if (j < kTileColumns && column + j < batch.width) {
    const int64_t i = (part * batch.sizes + n) * batch.width + column + j;
    p.sums.first[i] = staged_dy[j] + staged_dy[kTileColumns + j];
    p.sums.second[i] = staged_y[j] + staged_y[kTileColumns + j];
  }
}

// Grid: blocks of D S numbers x fields.
__global__ void __launch_bounds__(kThreads)
    finalise_kernel(const __grid_constant__ FinaliseParams p) {
  const Batch& batch = p.batch;
  const int field = blockIdx.y, i = blockIdx.x * kThreads + threadIdx.x;
  if (i >= batch.width * batch.total) return;
  const int j = i / batch.total, s = i % batch.total;
  int n = 0, k = s;
  while (k >= batch.dims[n]) k -= batch.dims[n++];

  float count = 0.0f, first = 0.0f, second = 0.0f, rows = 0.0f, product = 0.0f, covariance = 0.0f;
  const int tiles = ceil_div(static_cast<int>(p.used[field]), kTileRows);
  for (int group = 0; group < min(tiles, p.tiling.groups); ++group) {
    const int64_t part = static_cast<int64_t>(group) * batch.fields + field;
    const int64_t statistic = (part * batch.sizes + n) * batch.width + j;
    const int64_t element = part * batch.width * batch.total + i;
    count += p.sums.count[part * batch.sizes + n];
    first += p.sums.first[statistic];
    product += p.sums.product[element];
    if (p.training) {
      second += p.sums.second[statistic];
      rows += p.sums.rows[part * batch.total + s];
      covariance += p.sums.covariance[element];
    }
  }
  const int64_t statistic = statistic_index(batch, field, n, j);
  const float scale = 1.0f / sqrtf(p.normaliser.variance[statistic] + p.normaliser.eps);
  if (p.training) {
    if (count > 0.0f) product -= (rows * first + covariance * second) / count;
    if (k == 0) {
      p.first[statistic] = first;
      p.second[statistic] = second;
      if (j == 0) p.count[field * batch.sizes + n] = count;
    }
  }
  p.projection_grad[static_cast<int64_t>(field) * batch.width * batch.total + i] = scale * product;
  // In training the bias cancels. Rounding noise here would become steps of the learning rate in
  // Adam, so it is zero, exactly.
  if (k == 0) p.bias_grad[statistic] = p.training ? 0.0f : scale * first;
}

}  // namespace

void reduce(const ReduceParams& params, Mode mode, Stream stream) {
  const auto kernel = mode == Mode::kIeee   ? reduce_kernel<Mode::kIeee>
                      : mode == Mode::kTf32 ? reduce_kernel<Mode::kTf32>
                                            : reduce_kernel<Mode::kBf16>;
  const size_t shared = sizeof(float) * (params.tiling.weight_floats + params.tiling.row_floats +
                                         2 * kTileRows * kStagedStride);
  launch("reduce", kernel,
         dim3(count_pieces(params.batch) * params.tiling.column_blocks, params.tiling.groups,
              params.batch.fields),
         kThreads, shared, stream, params);
}

void finalise(const FinaliseParams& params, Stream stream) {
  launch("finalise", finalise_kernel,
         dim3(ceil_div(params.batch.width * params.batch.total, kThreads), params.batch.fields),
         kThreads, 0, stream, params);
}

}  // namespace autoemb
