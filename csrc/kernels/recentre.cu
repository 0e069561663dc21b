// The centre of z again, for the backward pass: one pass over the rows instead of a product each.
#include "tile.cuh"

namespace autoemb {
namespace {

constexpr int kCentreColumns = 32;

__device__ float as_multiplied(const Batch& batch, int size, float value, Mode mode) {
  return batch.dims[size] <= kExactDim ? value : rounded(value, mode);
}

// Grid: groups x fields.
__global__ void __launch_bounds__(kThreads, 4)
    sum_rows_kernel(const __grid_constant__ RecentreParams p) {
  __shared__ int64_t rows[kTileRows];
  const Batch& batch = p.batch;
  const int field = blockIdx.y, group = blockIdx.x;
  const int64_t part = static_cast<int64_t>(group) * batch.fields + field;
  float* sums = dynamic_shared<float>();
  float* shift = sums + batch.total;
  for (int n = 0, offset = 0; n < batch.sizes; offset += batch.dims[n++]) {
    for (int k = threadIdx.x; k < batch.dims[n]; k += kThreads) {
      const float value = shift_of(batch, field, n, k);
      shift[offset + k] = value;
      sums[offset + k] = 0.0f;
      if (group == 0) p.shift[static_cast<int64_t>(field) * batch.total + offset + k] = value;
    }
  }
  int count = 0;
  for (int first = group * kTileRows; first < batch.events; first += p.groups * kTileRows) {
    __syncthreads();
    if (threadIdx.x < kTileRows) {
      const int event = first + static_cast<int>(threadIdx.x);
      rows[threadIdx.x] =
          event < batch.events ? row_of(batch, slot_of(batch, field, 0), field, event) : -1;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      for (int i = 0; i < kTileRows; ++i) count += rows[i] >= 0;
    }
    for (int n = 0, offset = 0; n < batch.sizes; offset += batch.dims[n++]) {
      const Slot& slot = slot_of(batch, field, n);
      for (int k = threadIdx.x; k < batch.dims[n]; k += kThreads) {
        float sum = sums[offset + k];
#pragma unroll 8
        for (int i = 0; i < kTileRows; ++i) {
          const int64_t row = rows[i];
          if (row < 0) continue;
          const float value = slot.base[row * slot.stride + k] - shift[offset + k];
          sum += as_multiplied(batch, n, value, p.mode);
        }
        sums[offset + k] = sum;
      }
    }
  }
  if (threadIdx.x == 0) p.counts[part] = static_cast<float>(count);
  __syncthreads();
  for (int s = threadIdx.x; s < batch.total; s += kThreads) {
    p.sums[part * batch.total + s] = sums[s];
  }
}

// Grid: column blocks x sizes x fields.
__global__ void __launch_bounds__(kThreads)
    recentre_kernel(const __grid_constant__ RecentreParams p) {
  float* means = dynamic_shared<float>();
  const Batch& batch = p.batch;
  const int field = blockIdx.z, n = blockIdx.y, column = blockIdx.x * kCentreColumns;
  const int offset = offset_of(batch, n), dim = batch.dims[n];
  for (int k = threadIdx.x; k < dim; k += kThreads) {
    float sum = 0.0f, count = 0.0f;
    for (int group = 0; group < p.groups; ++group) {
      const int64_t part = static_cast<int64_t>(group) * batch.fields + field;
      sum += p.sums[part * batch.total + offset + k];
      count += p.counts[part];
    }
    means[k] = count > 0.0f ? sum / count : 0.0f;
  }
  __syncthreads();
  for (int c = warp(); c < kCentreColumns && column + c < batch.width; c += kWarps) {
    const float* projection =
        batch.projection + (static_cast<int64_t>(field) * batch.width + column + c) * batch.total +
        offset;
    float sum = 0.0f;
    for (int k = lane(); k < dim; k += kWarp) {
      sum += means[k] * as_multiplied(batch, n, projection[k], p.mode);
    }
    sum = sum_lanes(sum, kWarp - 1);
    if (lane() == 0) p.centre[statistic_index(batch, field, n, column + c)] = sum;
  }
}

}  // namespace

void sum_rows(const RecentreParams& params, Stream stream) {
  launch("sum_rows", sum_rows_kernel, dim3(params.groups, params.batch.fields), kThreads,
         sizeof(float) * 2 * params.batch.total, stream, params);
}

void recentre(const RecentreParams& params, Stream stream) {
  int widest = 0;
  for (int n = 0; n < params.batch.sizes; ++n) widest = std::max(widest, params.batch.dims[n]);
  launch(
      "recentre", recentre_kernel,
      dim3(ceil_div(params.batch.width, kCentreColumns), params.batch.sizes, params.batch.fields),
      kThreads, sizeof(float) * widest, stream, params);
}

}  // namespace autoemb
