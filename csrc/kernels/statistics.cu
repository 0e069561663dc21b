// Mean and biased variance of z per field, size and column: moments of strips of 16 events, centred
// and merged in a fixed order (Chan, Golub and LeVeque 1979). Raw moments would lose every digit of
// the variance at mean/std = 1000 in float32.
#include "tile.cuh"

namespace autoemb {
namespace {

struct Moments {
  float count, mean, m2;
};

__device__ Moments merge_moments(const Moments& a, const Moments& b) {
  if (b.count == 0.0f) return a;
  const float count = a.count + b.count, delta = b.mean - a.mean;
  return {count, a.mean + delta * (b.count / count),
          a.m2 + b.m2 + delta * delta * (a.count * b.count / count)};
}

// Grid: groups x column blocks x fields.
template <Mode kMode>
__global__ void __launch_bounds__(kThreads, 2)
    statistics_kernel(const __grid_constant__ StatisticsParams p) {
  const Batch& batch = p.batch;
  const int field = blockIdx.z, group = blockIdx.x, column = blockIdx.y * kTileColumns;
  float* shift = dynamic_shared<float>();
  Moments* moments = reinterpret_cast<Moments*>(shift + padded(batch.total));
  float* memory = reinterpret_cast<float*>(moments + batch.sizes * 2 * kTileColumns);

  for (int n = 0, offset = 0; n < batch.sizes; offset += batch.dims[n++]) {
    for (int k = threadIdx.x; k < batch.dims[n]; k += kThreads) {
      const float value = shift_of(batch, field, n, k);
      shift[offset + k] = value;
      if (group == 0 && column == 0) {
        p.shift[static_cast<int64_t>(field) * batch.total + offset + k] = value;
      }
    }
  }
  for (int i = threadIdx.x; i < batch.sizes * 2 * kTileColumns; i += kThreads) {
    moments[i] = {0.0f, 0.0f, 0.0f};
  }
  __syncthreads();

  constexpr int kSameColumn = 4 | 8 | 16;  // lanes that hold other rows of the same columns
  project_events<kMode>(
      batch, p.tiling, field, group, column, shift, memory,
      [&](int, int n, const Tile& z, const bool* present) {
        const float first = present[tile_row()], second = present[tile_row() + 8];
        const float count = sum_lanes(first + second, kSameColumn);
        if (count == 0.0f) return;  // the same for the whole warp
#pragma unroll
        for (int c = 0; c < Tile::kColumns; ++c) {
          const float upper = z.values[0][c], lower = z.values[1][c];
          const float mean = sum_lanes(first * upper + second * lower, kSameColumn) / count;
          const float m2 = sum_lanes(
              first * (upper - mean) * (upper - mean) + second * (lower - mean) * (lower - mean),
              kSameColumn);
          if (lane() < 4) {
            Moments& total = moments[(n * 2 + strip()) * kTileColumns + tile_column(c)];
            total = merge_moments(total, {count, mean, m2});
          }
        }
      });

  const int strips = 2 * p.tiling.groups;
  for (int i = threadIdx.x; i < batch.sizes * 2 * kTileColumns; i += kThreads) {
    const int j = column + i % kTileColumns, n = i / kTileColumns / 2;
    if (j >= batch.width) continue;
    const int64_t strip =
        (static_cast<int64_t>(field) * batch.sizes + n) * strips + 2 * group + i / kTileColumns % 2;
    p.strips.mean[strip * batch.width + j] = moments[i].mean;
    p.strips.m2[strip * batch.width + j] = moments[i].m2;
    if (j == 0) p.strips.count[strip] = moments[i].count;
  }
}

constexpr int kMergeColumns = 32;

// Grid: column blocks x sizes x fields. Each of 8 warps merges every eighth strip of 32 columns.
__global__ void __launch_bounds__(kThreads) merge_kernel(const __grid_constant__ MergeParams p) {
  __shared__ Moments partial[kWarps][kMergeColumns];
  __shared__ float shifts[kMergeColumns];
  const Batch& batch = p.batch;
  const int field = blockIdx.z, n = blockIdx.y, column = blockIdx.x * kMergeColumns;
  const int j = column + lane();
  const int64_t first = (static_cast<int64_t>(field) * batch.sizes + n) * p.num_strips;
  Moments moments = {0.0f, 0.0f, 0.0f};
  for (int s = warp(); s < p.num_strips && j < batch.width; s += kWarps) {
    const int64_t i = (first + s) * batch.width + j;
    moments = merge_moments(moments, {p.strips.count[first + s], p.strips.mean[i], p.strips.m2[i]});
  }
  partial[warp()][lane()] = moments;

  const float* shift = p.shift + static_cast<int64_t>(field) * batch.total + offset_of(batch, n);
  for (int c = warp(); c < kMergeColumns && column + c < batch.width; c += kWarps) {
    const float product = project_shift(batch, shift, field, n, column + c);
    if (lane() == 0) shifts[c] = product;
  }
  __syncthreads();
  if (warp() != 0 || j >= batch.width) return;
  for (int w = 1; w < kWarps; ++w) moments = merge_moments(moments, partial[w][lane()]);
  const int64_t i = statistic_index(batch, field, n, j);
  p.centre[i] = moments.mean;
  p.mean[i] = moments.mean + shifts[lane()] + p.bias[i];
  p.variance[i] = moments.count > 0.0f ? moments.m2 / moments.count : 0.0f;
}

}  // namespace

void statistics(const StatisticsParams& params, Mode mode, Stream stream) {
  const auto kernel = mode == Mode::kIeee   ? statistics_kernel<Mode::kIeee>
                      : mode == Mode::kTf32 ? statistics_kernel<Mode::kTf32>
                                            : statistics_kernel<Mode::kBf16>;
  const size_t shared = sizeof(float) * (statistics_floats(params.batch) +
                                         params.tiling.weight_floats + params.tiling.row_floats);
  launch("statistics", kernel,
         dim3(params.tiling.groups, params.tiling.column_blocks, params.batch.fields), kThreads,
         shared, stream, params);
}

void merge(const MergeParams& params, Stream stream) {
  launch("merge", merge_kernel,
         dim3(ceil_div(params.batch.width, kMergeColumns), params.batch.sizes, params.batch.fields),
         kThreads, 0, stream, params);
}

}  // namespace autoemb
